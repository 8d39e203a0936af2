//! The stages that prepare features: one form for all of them.
//!
//! A [`Step`] reads named columns and makes others by its [`Work`]. When a
//! pipeline is loaded each step is told the kinds of the columns it reads
//! ([`Work::plan`]) and answers what it makes, so widths that do not fit are
//! found before any row. Where Spark would drop a row (`handleInvalid =
//! "skip"`), scoring is an error that says so: every row gets a prediction.

use std::fmt;
use std::rc::Rc;

use serde_json::Value;

use super::explain::Slot;
use super::frame::{Frame, Made};
use super::store::{Folder, Parameters};
use super::sums::Library;
use super::{labels, scale, shape};
use crate::error::{Error, Result};
use crate::model::InputKind;

/// Values of a made vector at most.
pub const MAX_WIDTH: usize = 1 << 20;

/// What a stage does with a value that it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// Refuses it.
    Error,
    /// Would drop the row.
    Skip,
    /// Keeps it as a value of its own.
    Keep,
}

/// A step over named columns.
#[derive(Debug)]
pub struct Step {
    /// Spark's name of the stage.
    pub class: String,
    /// Columns it reads.
    pub reads: Vec<String>,
    /// What those are in the signature, when the rows bring them.
    pub kinds: Vec<InputKind>,
    /// Columns it makes.
    pub makes: Vec<String>,
    /// How.
    pub work: Box<dyn Work>,
}

/// What a step does.
pub trait Work: fmt::Debug + Send + Sync {
    /// Checks the columns that it will read and says what it makes of them.
    ///
    /// # Errors
    /// When it cannot read them.
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>>;

    /// Makes its columns from those it `reads`.
    ///
    /// # Errors
    /// When a value is refused.
    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>>;

    /// The input columns of what it makes, by those of what it reads; none
    /// when a value comes from several columns.
    fn slots(&self, _reads: Vec<Vec<Slot>>) -> Option<Vec<Slot>> {
        None
    }

    /// Numbers that it keeps for the places of vectors.
    fn held(&self) -> usize {
        0
    }

    /// The labels that it numbers.
    fn labels(&self) -> Option<&[String]> {
        None
    }
}

/// What is known of the columns that a step reads, and how it names its own.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Names and kinds.
    pub reads: Vec<(&'a str, Kind)>,
    /// Names of what it makes.
    pub makes: &'a [String],
    /// Whether any step wants the attributes of vectors.
    pub attributes: bool,
}

impl Plan<'_> {
    /// The width of a column of vectors; none when the rows bring them.
    pub fn width(&self, place: usize) -> Result<Option<usize>> {
        match &self.reads[place] {
            (_, Kind::Vector { width, .. }) => Ok(*width),
            (_, Kind::Raw) => Ok(None),
            (name, _) => Err(Error::data(format!("column `{name}` does not hold vectors"))),
        }
    }

    /// Refuses another width than `fitted`.
    pub fn fits(&self, class: &str, fitted: usize) -> Result<()> {
        match self.width(0)?.filter(|width| *width != fitted) {
            None => Ok(()),
            Some(width) => {
                let name = self.reads[0].0;
                Err(Error::data(format!("{class} was fitted on {fitted} values, `{name}` has {width}")))
            }
        }
    }

    /// Refuses vectors.
    pub fn number(&self, place: usize) -> Result<()> {
        match &self.reads[place] {
            (name, Kind::Vector { .. }) => {
                Err(Error::data(format!("column `{name}` holds vectors where numbers were expected")))
            }
            _ => Ok(()),
        }
    }

    /// Vectors as those that are read, with the same attributes.
    pub fn same(&self) -> Vec<Kind> {
        vec![match &self.reads[0].1 {
            kind @ Kind::Vector { .. } => kind.clone(),
            _ => Kind::Vector { width: None, attributes: None },
        }]
    }
}

/// What a column holds.
#[derive(Debug, Clone)]
pub enum Kind {
    /// One number.
    Number(Attribute),
    /// A vector; its width is not known when the rows bring it.
    Vector {
        /// Values.
        width: Option<usize>,
        /// What each place is, where known.
        attributes: Option<Rc<[Attribute]>>,
    },
    /// What the rows bring, or text.
    Raw,
}

impl Kind {
    /// A vector of places about which nothing is known.
    pub fn plain(width: usize) -> Vec<Self> {
        vec![Self::Vector { width: Some(width), attributes: None }]
    }

    /// Values of a row; what the rows bring is taken for one number.
    pub fn values(&self) -> usize {
        match self {
            Self::Number(_) | Self::Raw => 1,
            Self::Vector { width, .. } => width.unwrap_or(1),
        }
    }
}

/// What Spark notes about a number or a place of a vector.
#[derive(Debug, Clone, Default)]
pub struct Attribute {
    /// Its name.
    pub name: Option<String>,
    /// Categories that it stands for; 0 for a number.
    pub categories: usize,
    /// Their labels, where known.
    pub labels: Option<Rc<[String]>>,
}

/// What a stage's folder says.
#[derive(Debug)]
pub struct Source<'a> {
    /// The stage, to its last part.
    pub class: &'a str,
    /// All its metadata.
    pub metadata: &'a Value,
    /// Its parameters.
    pub parameters: &'a Parameters<'a>,
    /// Its files.
    pub folder: &'a Folder<'a>,
}

impl Source<'_> {
    /// Whether Spark 4 or later wrote it.
    pub fn since_4(&self) -> bool {
        let version = self.metadata.get("sparkVersion").and_then(Value::as_str).unwrap_or_default();
        !version.starts_with(['1', '2', '3'])
    }

    /// The library that adds up its sums.
    pub fn library(&self) -> Library {
        if self.since_4() { Library::Vector } else { Library::Plain }
    }

    /// The columns it reads, each with the one it makes of it.
    pub fn pairs(&self) -> Result<Vec<(String, String)>> {
        let class = self.class;
        let inputs = self.parameters.columns("inputCols", "inputCol")?;
        let outputs = self.parameters.columns("outputCols", "outputCol")?;
        if inputs.len() != outputs.len() {
            return Err(Error::data(format!("{class} has {} inputs and {} outputs", inputs.len(), outputs.len())));
        }
        // The columns are made one after another, Spark makes them at once.
        for (place, output) in outputs.iter().enumerate() {
            if inputs[place + 1..].contains(output) || outputs[place + 1..].contains(output) {
                return Err(Error::invalid(format!("{class} makes the column `{output}`, which it also reads")));
            }
        }
        Ok(inputs.into_iter().zip(outputs).collect())
    }

    /// Its `handleInvalid`.
    pub fn invalid(&self) -> Result<Invalid> {
        match self.parameters.text("handleInvalid").unwrap_or("error") {
            "error" => Ok(Invalid::Error),
            "keep" => Ok(Invalid::Keep),
            "skip" => Ok(Invalid::Skip),
            other => Err(Error::data(format!("{} has handleInvalid = `{other}`", self.class))),
        }
    }

    /// A text parameter that must be there.
    pub fn text(&self, name: &str) -> Result<String> {
        let found = self.parameters.text(name).map(str::to_owned);
        found.ok_or_else(|| Error::data(format!("{} has no {name}", self.class)))
    }

    /// A number that must be there.
    pub fn number(&self, name: &str) -> Result<f64> {
        let found = self.parameters.number(name)?;
        found.ok_or_else(|| Error::data(format!("{} has no {name}", self.class)))
    }

    /// A step of one column from another.
    pub fn step(&self, read: String, make: String, work: impl Work + 'static) -> Step {
        self.many(vec![read], InputKind::Numeric, make, work)
    }

    /// A step of one column from the column `inputCol` into `outputCol`.
    pub fn single(&self, work: impl Work + 'static) -> Result<Vec<Step>> {
        Ok(vec![self.step(self.text("inputCol")?, self.text("outputCol")?, work)])
    }

    /// A step of one column from several.
    pub fn many(&self, reads: Vec<String>, kind: InputKind, make: String, work: impl Work + 'static) -> Step {
        let kinds = vec![kind; reads.len()];
        Step { class: self.class.to_owned(), reads, kinds, makes: vec![make], work: Box::new(work) }
    }
}

/// Loads a stage; `None` when it is not one that prepares features.
pub fn load(source: &Source<'_>) -> Result<Option<Vec<Step>>> {
    Ok(Some(match source.class {
        "StringIndexerModel" => labels::indexer(source)?,
        "IndexToString" => labels::index_to_string(source)?,
        "OneHotEncoderModel" => labels::one_hot(source)?,
        "VectorIndexerModel" => labels::vector_indexer(source)?,
        "FeatureHasher" => labels::hasher(source)?,
        "ImputerModel" => scale::imputer(source)?,
        "Bucketizer" => scale::bucketizer(source)?,
        "Binarizer" => scale::binarizer(source)?,
        "Normalizer" => scale::normalizer(source)?,
        "MinMaxScalerModel" => scale::min_max(source)?,
        "StandardScalerModel" | "MaxAbsScalerModel" | "RobustScalerModel" | "ElementwiseProduct" => {
            scale::scaler(source)?
        }
        "VectorAssembler" => shape::assembler(source)?,
        "VectorSlicer" | "ChiSqSelectorModel" | "UnivariateFeatureSelectorModel" | "VarianceThresholdSelectorModel" => {
            shape::selector(source)?
        }
        "PCAModel" => shape::pca(source)?,
        "Interaction" => shape::interaction(source)?,
        "PolynomialExpansion" => shape::polynomial(source)?,
        "DCT" => shape::cosine(source)?,
        _ => return Ok(None),
    }))
}
