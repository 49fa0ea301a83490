// Products of float32 matrices by oneDNN's micro-kernel, which torch has for its own attention on CPUs.
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

static at::Tensor mm(const at::Tensor& left, const at::Tensor& right) {
  const auto a = left.contiguous(), b = right.contiguous();
  const int64_t m = a.size(0), k = a.size(1), n = b.size(1);
  if (m == 0 || k == 0 || n == 0) {
    return at::zeros({m, n}, a.options());
  }
  auto c = at::empty({m, n}, a.options());
  at::native::cpublas::brgemm(
      m, n, k, k, n, n, false, a.const_data_ptr<float>(), b.const_data_ptr<float>(), c.data_ptr<float>(), false);
  return c;
}

TORCH_LIBRARY(pyro_dgm_products, library) {
  library.def("mm(Tensor left, Tensor right) -> Tensor");
}

TORCH_LIBRARY_IMPL(pyro_dgm_products, CPU, library) {
  library.impl("mm", &mm);
}
