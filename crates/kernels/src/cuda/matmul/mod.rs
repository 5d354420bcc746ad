//! Matrix products through cuBLASLt: `out = op(a) op(b) (+ c) (+ bias)`, row-major, fp32 accumulation.
//!
//! Products in bf16 may write fp32 (gradients of weights); products in fp32 do not round to tf32. One stream, one workspace and no
//! split over atomics: two runs give the same bits. The algorithm of a shape is the library's first proposal, or another of its
//! proposals where `choices.csv` says so: those were timed on an H100 ([`Matmul::tune`]), and a table gives every run the same choice
//! where a race at run time would not.

mod plan;
mod tune;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Mutex;

use cudarc::cublaslt::result as lt;
use cudarc::cublaslt::sys::{cublasLtHandle_t, cublasLtMatmulDescAttributes_t as Attribute};

use crate::cuda::device::Device;
use crate::cuda::error::{CudaError, CudaResult};
use crate::cuda::library;
use crate::cuda::memory::{Dtype, Memory, Tensor};
use crate::cuda::setup::setup;
use crate::error::Error;
use plan::{Key, Plan, set};

/// Bytes that an algorithm may use beside its operands.
const WORKSPACE: usize = 32 << 20;

/// Proposals asked of the library when choosing among them.
const PROPOSALS: usize = 8;

/// `rows,columns,inner,transposed_a,transposed_b,type,out,accumulate,proposal` on sm_90a.
const CHOICES: &str = include_str!("choices.csv");

/// A matrix, or its transpose.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// The matrix as it lies in memory.
    pub matrix: &'a Tensor,
    /// Whether its transpose is meant.
    pub transposed: bool,
}

impl<'a> Operand<'a> {
    /// The matrix itself.
    pub fn plain(matrix: &'a Tensor) -> Self {
        Self { matrix, transposed: false }
    }

    /// Its transpose.
    pub fn transposed(matrix: &'a Tensor) -> Self {
        Self { matrix, transposed: true }
    }

    fn shape(&self) -> (usize, usize) {
        let (rows, cols) = (self.matrix.rows, self.matrix.cols);
        if self.transposed { (cols, rows) } else { (rows, cols) }
    }
}

/// cuBLASLt on one device: a handle, a workspace, and the plans made so far.
pub struct Matmul {
    handle: cublasLtHandle_t,
    workspace: Tensor,
    plans: Mutex<HashMap<Key, Plan>>,
    /// Proposal by product, as in `choices.csv`.
    choices: HashMap<String, usize>,
}

// SAFETY: the library's handle may be used from any thread; the descriptors of a plan are only read once made.
unsafe impl Send for Matmul {}

impl std::fmt::Debug for Matmul {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Matmul")
    }
}

impl Matmul {
    /// Loads the library and makes a handle.
    ///
    /// # Errors
    /// [`CudaError::NoCompiler`] where libcublasLt is not there.
    pub fn new(device: &Device) -> CudaResult<Self> {
        library::load_cublas()?;
        let _setup = setup();
        let memory = Memory::new(device, WORKSPACE)?;
        let workspace = Tensor::new(&memory, 0, 1, WORKSPACE / 4, WORKSPACE / 4, Dtype::F32)?;
        let handle = lt::create_handle().map_err(failed("create handle"))?;
        let lines = CHOICES.lines().filter(|_| device.arch() == "sm_90a");
        let choices =
            lines.filter_map(|line| line.rsplit_once(',')).filter_map(|(k, v)| Some((k.into(), v.parse().ok()?)));
        Ok(Self { handle, workspace, plans: Mutex::default(), choices: choices.collect() })
    }

    /// `out = a b`, plus `add` (which may be `out` itself) and plus `bias` (one row, in the type of `out`) where given.
    ///
    /// # Errors
    /// [`Error::Argument`] if shapes or types do not fit; the library's.
    pub fn run(
        &self,
        device: &Device,
        a: Operand<'_>,
        b: Operand<'_>,
        out: &Tensor,
        add: Option<&Tensor>,
        bias: Option<&Tensor>,
    ) -> CudaResult<()> {
        let ((m, k), (kb, n)) = (a.shape(), b.shape());
        let fits = k == kb && (out.rows, out.cols) == (m, n) && add.is_none_or(|c| (c.rows, c.cols) == (m, n));
        let types = a.matrix.dtype == b.matrix.dtype && add.is_none_or(|c| c.dtype == out.dtype);
        if !fits || !types || bias.is_some_and(|v| v.cols != n || v.dtype != out.dtype) {
            let what = format!("[{m}, {k}] {:?} by [{kb}, {n}] {:?} into {out:?}", a.matrix.dtype, b.matrix.dtype);
            let remedy = "give operands of one type whose inner sizes agree";
            return Err(CudaError::Argument(Error::Argument { op: "matmul", what, remedy }));
        }
        let c = add.unwrap_or(out);
        let key = Key {
            shape: (m, n, k),
            transposed: (a.transposed, b.transposed),
            strides: (a.matrix.stride, b.matrix.stride, c.stride, out.stride),
            alignments: (a.matrix.alignment(), b.matrix.alignment(), c.alignment(), out.alignment()),
            types: (a.matrix.dtype, out.dtype),
            accumulate: add.is_some(),
            bias: bias.is_some(),
        };
        let mut plans = self.plans.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A first run loads the library's kernel.
        let _setup = (!plans.contains_key(&key)).then(setup);
        let plan = match plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::hash_map::Entry::Vacant(empty) => empty.insert(self.plan(&key)?),
        };
        if let Some(bias) = bias {
            // SAFETY: the descriptor is alive and the attribute is an address.
            unsafe { set(plan.desc, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.address())? };
        }
        self.queue(device, plan, (a.matrix, b.matrix, c, out), add.is_some())
    }

    fn queue(
        &self,
        device: &Device,
        plan: &Plan,
        (a, b, c, out): (&Tensor, &Tensor, &Tensor, &Tensor),
        accumulate: bool,
    ) -> CudaResult<()> {
        let (alpha, beta) = (1.0f32, if accumulate { 1.0f32 } else { 0.0 });
        device.bind()?;
        // SAFETY: the plan's descriptors are alive and were made for these shapes; every matrix lies inside of an allocation
        // that it keeps alive, and so does the workspace. Row-major operands are passed as their column-major transposes.
        unsafe {
            lt::matmul(
                self.handle,
                plan.desc,
                std::ptr::from_ref(&alpha).cast(),
                std::ptr::from_ref(&beta).cast(),
                b.address() as *const c_void,
                plan.b,
                a.address() as *const c_void,
                plan.a,
                c.address() as *const c_void,
                plan.c,
                out.address() as *mut c_void,
                plan.d,
                &plan.algo,
                self.workspace.address() as *mut c_void,
                WORKSPACE,
                device.stream().cu_stream().cast(),
            )
        }
        .map_err(failed("matmul"))
    }

    /// The plan of a product: the proposal that the table names, or the first.
    fn plan(&self, key: &Key) -> CudaResult<Plan> {
        let chosen = self.choices.get(&key.line()).copied().unwrap_or(0);
        let mut plans = self.proposals(key)?;
        if chosen >= plans.len() && plans.is_empty() {
            return Err(CudaError::Driver { what: "matmul", error: format!("no algorithm for {}", key.line()) });
        }
        let plan = plans.swap_remove(if chosen < plans.len() { chosen } else { 0 });
        plans.iter().for_each(Plan::destroy);
        Ok(plan)
    }
}

impl Drop for Matmul {
    fn drop(&mut self) {
        let _setup = setup();
        let plans = self.plans.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        plans.values().for_each(Plan::destroy);
        // SAFETY: made once, and no plan of it is left.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

fn failed(what: &'static str) -> impl Fn(lt::CublasError) -> CudaError {
    move |e| CudaError::Driver { what, error: format!("cuBLASLt: {:?}", e.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_name_products_and_proposals() {
        let mut products = std::collections::BTreeSet::new();
        for line in CHOICES.lines() {
            let (product, proposal) = line.rsplit_once(',').unwrap();
            assert_eq!(product.split(',').count(), 8, "{line}");
            assert!((1..PROPOSALS).contains(&proposal.parse().unwrap()), "{line}");
            assert!(products.insert(product), "{line} stands twice");
        }
    }
}
