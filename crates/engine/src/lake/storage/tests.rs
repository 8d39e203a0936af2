use super::*;

#[test]
fn a_location_has_one_identity_however_it_is_written() {
    let storage = Storage::default();
    assert_eq!(storage.identity("s3a://bucket/a/b"), storage.identity("s3://bucket/a/b"));
    assert_ne!(storage.identity("s3://bucket/a/b"), storage.identity("gs://bucket/a/b"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("x");
    let spellings =
        [format!("file://{}", path.display()), format!("file:{}", path.display()), path.display().to_string()];
    for spelling in &spellings {
        assert_eq!(storage.identity(spelling), path.display().to_string());
    }
    std::os::unix::fs::symlink(folder.path(), folder.path().join("link")).unwrap();
    assert_eq!(storage.identity(&format!("{}/link/x", folder.path().display())), path.display().to_string());
}

#[test]
fn what_is_no_location_is_refused_by_name() {
    for (location, word) in [("ftp://x/y", "`ftp`"), ("s3:///key", "no bucket"), ("abfss://@account/x", "no bucket")] {
        let error = check_location(location).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    for location in ["/a/b", "file:///a", "s3://b/c d", "abfss://c@a.dfs.core.windows.net/x", "gs://b"] {
        check_location(location).unwrap();
    }
}

#[test]
fn a_new_file_does_not_replace_one_and_a_listing_follows_no_links() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::default();
    let top = format!("file://{}", folder.path().display());
    let file = join(&top, "a/b/c");
    storage.write_new(&file, b"one").unwrap();
    assert!(storage.write_new(&file, b"two").is_err());
    assert_eq!(&storage.read(&file).unwrap()[..], b"one");
    std::os::unix::fs::symlink(folder.path().join("a"), folder.path().join("link")).unwrap();
    let found: Vec<String> = storage.list(&top).unwrap().into_iter().map(|file| file.location).collect();
    assert_eq!(found, std::slice::from_ref(&file));
    storage.rename(&file, &join(&top, "d/e")).unwrap();
    assert!(!storage.exists(&file) && storage.exists(&join(&top, "d/e")));
    assert!(storage.remove(&join(&top, "d/e")).unwrap());
    assert!(!storage.remove(&join(&top, "d/e")).unwrap());
}
