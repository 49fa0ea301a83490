// What compiled steps need on CPUs and torch has slower: products of small matrices, and Adam. Called from graphs
// through torch's C interface and from Python through ctypes; torch's C++ headers would take longer to read than all
// the rest to compile.
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/native/CPUBlas.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>

namespace {

using Vector = at::vec::Vectorized<float>;

constexpr int64_t kSide = 16;        // of a square of floats that is transposed in registers
constexpr int64_t kTransposed = 64;  // rows or columns of a matrix that are transposed at a time
constexpr int64_t kMany = 256;       // rows of a right matrix from which its columns are taken a few at a time,
constexpr int64_t kFew = 256;        // at most so many, so that they stay in the cache,
constexpr int64_t kLarge = 1 << 19;  // and its size from which they are copied together first
constexpr int64_t kNarrow = 64;      // rows of a left matrix that make good columns of the micro-kernel
constexpr int64_t kTall = 1 << 17;   // size of a left matrix from which it is transposed a few rows at a time, too

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};
using Scratch = std::unique_ptr<float, Free>;

Scratch allocate(int64_t count) {
  constexpr size_t line = 64;
  void* memory = std::aligned_alloc(line, (count * sizeof(float) + line - 1) / line * line);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return Scratch(static_cast<float*>(memory));
}

// Writes m rows of n numbers as n rows of m.
void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t m, int64_t n) {
  for (int64_t i = 0; i < m; i += kSide) {
    for (int64_t j = 0; j < n; j += kSide) {
      at::vec::transpose_mxn<float>(
          from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride,
          static_cast<int>(std::min(kSide, m - i)), static_cast<int>(std::min(kSide, n - j)));
    }
  }
}

struct Matrix {
  const float* data;
  int64_t rows, columns, row_stride, column_stride;

  bool lies_by_rows() const { return (column_stride == 1 || columns == 1) && (row_stride >= columns || rows == 1); }
  bool lies_by_columns() const { return !lies_by_rows() && row_stride == 1 && column_stride >= rows; }
  int64_t line() const { return std::max(row_stride, columns); }  // of a matrix by rows

  // Some of the rows, one after the other.
  void gather_rows(int64_t start, int64_t count, float* to) const {
    if (lies_by_columns()) {
      transpose(data + start, column_stride, to, columns, columns, count);
      return;
    }
    for (int64_t row = 0; row < count; ++row) {
      const float* from = data + (start + row) * row_stride;
      for (int64_t column = 0; column < columns; ++column) {
        to[row * columns + column] = from[column * column_stride];
      }
    }
  }

  // The same matrix by rows; `memory` keeps the copy where there must be one.
  Matrix by_rows(Scratch& memory) const {
    if (lies_by_rows()) {
      return {data, rows, columns, line(), 1};
    }
    memory = allocate(rows * columns);
    gather_rows(0, rows, memory.get());
    return {memory.get(), rows, columns, columns, 1};
  }
};

// The product by oneDNN's micro-kernel, which torch has for its own attention on CPUs; in one thread. The left matrix
// lies by rows, the right one by rows or by columns.
void multiply(const Matrix& left, const Matrix& right, float* result) {
  const int64_t k = right.rows, n = right.columns;
  const bool is_transposed = right.lies_by_columns();
  const bool is_gathered = !is_transposed && k > kMany && k * n > kLarge;
  const int64_t blocks = (n + kFew - 1) / kFew;
  const int64_t even = (n + blocks * kSide - 1) / (blocks * kSide) * kSide;
  const int64_t width = is_transposed ? kTransposed : k > kMany ? std::min(n, even) : n;
  const bool is_copied = is_transposed || is_gathered;
  const auto scratch = is_copied ? allocate(k * width) : Scratch();

  for (int64_t start = 0; start < n; start += width) {
    const int64_t count = std::min(width, n - start);
    const float* from = right.data + start * (is_transposed ? right.column_stride : 1);
    if (is_transposed) {
      transpose(from, right.column_stride, scratch.get(), width, count, k);
    } else if (is_gathered) {
      for (int64_t row = 0; row < k; ++row) {
        std::copy_n(from + row * right.line(), count, scratch.get() + row * width);
      }
    }
    at::native::cpublas::brgemm(
        left.rows, count, k, left.line(), is_copied ? width : right.line(), n, false, left.data,
        is_copied ? scratch.get() : from, result + start, false);
  }
}

void product(const Matrix& left, const Matrix& right, float* result) {
  const int64_t m = left.rows, k = left.columns, n = right.columns;
  if (m == 0 || k == 0 || n == 0) {
    std::fill_n(result, m * n, 0.0f);
    return;
  }
  Scratch left_memory, right_memory;
  const bool is_narrow = kNarrow <= m && m * k < kTall && m % kSide == 0;
  if (is_narrow && left.lies_by_rows() && right.lies_by_columns() && 4 * m * (k + n) < 3 * k * n) {
    // The other way round, since left and result together are well smaller than the right matrix.
    left_memory = allocate(k * m);
    right_memory = allocate(n * m);
    transpose(left.data, left.line(), left_memory.get(), m, m, k);
    multiply({right.data, n, k, right.column_stride, 1}, {left_memory.get(), k, m, m, 1}, right_memory.get());
    transpose(right_memory.get(), m, result, n, n, m);
    return;
  }
  if (left.lies_by_rows() || m * k < kTall || k * n > kLarge) {
    const auto b = right.lies_by_columns() ? right : right.by_rows(right_memory);
    multiply(left.by_rows(left_memory), b, result);
    return;
  }
  const auto b = right.by_rows(right_memory);
  left_memory = allocate(kTransposed * k);
  for (int64_t start = 0; start < m; start += kTransposed) {
    const int64_t count = std::min(kTransposed, m - start);
    left.gather_rows(start, count, left_memory.get());
    multiply({left_memory.get(), count, k, k, 1}, b, result + start * n);
  }
}

bool as_matrix(AtenTensorHandle tensor, Matrix& matrix) {
  void* data = nullptr;
  int64_t *sizes = nullptr, *strides = nullptr;
  if (aoti_torch_get_data_ptr(tensor, &data) || aoti_torch_get_sizes(tensor, &sizes) ||
      aoti_torch_get_strides(tensor, &strides)) {
    return false;
  }
  matrix = {static_cast<const float*>(data), sizes[0], sizes[1], strides[0], strides[1]};
  return true;
}

// Adam for some numbers of a parameter, its gradient and both moments.
struct Adam {
  Adam(double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled, double step)
      : beta2(static_cast<float>(beta2)),
        one_less_beta1(static_cast<float>(1 - beta1)),
        one_less_beta2(static_cast<float>(1 - beta2)),
        penalty(static_cast<float>(decoupled ? 0 : weight_decay)),
        shrinkage(static_cast<float>(decoupled ? 1 - lr * weight_decay : 1)) {
    // lr (m / c1) / (sqrt(v / c2) + eps) with c = 1 - beta^step, in one division.
    const double root = std::sqrt(1 - std::pow(beta2, step));
    this->eps = static_cast<float>(eps * root);
    rate = static_cast<float>(lr * root / (1 - std::pow(beta1, step)));
  }

  void operator()(float* parameter, const float* gradient, float* first, float* second, int64_t count) const {
    auto w = Vector::loadu(parameter, count), g = Vector::loadu(gradient, count);
    auto m = Vector::loadu(first, count), v = Vector::loadu(second, count);
    g = at::vec::fmadd(w, Vector(penalty), g);
    m = at::vec::fmadd(Vector(one_less_beta1), g - m, m);
    v = at::vec::fmadd(Vector(beta2), v, Vector(one_less_beta2) * g * g);
    w = w * Vector(shrinkage) - Vector(rate) * m / (v.sqrt() + Vector(eps));
    w.store(parameter, count);
    m.store(first, count);
    v.store(second, count);
  }

  float beta2, one_less_beta1, one_less_beta2, penalty, shrinkage, eps, rate;
};

}  // namespace

// The operation pyro_dgm::small_product, as graphs call it.
extern "C" AOTITorchError aoti_torch_cpu_small_product(
    AtenTensorHandle left, AtenTensorHandle right, AtenTensorHandle* result) {
  try {
    Matrix a{}, b{};
    void* data = nullptr;
    if (!as_matrix(left, a) || !as_matrix(right, b)) {
      return 1;
    }
    const int64_t sizes[] = {a.rows, b.columns}, strides[] = {b.columns, 1};
    if (aoti_torch_empty_strided(
            2, sizes, strides, aoti_torch_dtype_float32(), aoti_torch_device_type_cpu(), 0, result) ||
        aoti_torch_get_data_ptr(*result, &data)) {
      return 1;
    }
    product(a, b, static_cast<float*>(data));
    return 0;
  } catch (...) {
    return 1;
  }
}

// The same as Python calls it: data, then sizes and strides of either matrix.
extern "C" int pyro_dgm_product(const float* left, const float* right, float* result, const int64_t* shape) {
  try {
    product({left, shape[0], shape[1], shape[2], shape[3]}, {right, shape[4], shape[5], shape[6], shape[7]}, result);
    return 0;
  } catch (...) {
    return 1;
  }
}

// A step of Adam or AdamW for some parameters; counts the steps, too.
extern "C" void pyro_dgm_adam(
    int64_t places, float** parameters, const float** gradients, float** firsts, float** seconds, float** steps,
    const int64_t* counts, double lr, double beta1, double beta2, double eps, double weight_decay, int decoupled) {
  for (int64_t place = 0; place < places; ++place) {
    *steps[place] += 1;
    const Adam update(lr, beta1, beta2, eps, weight_decay, decoupled != 0, *steps[place]);
    float *parameter = parameters[place], *first = firsts[place], *second = seconds[place];
    const float* gradient = gradients[place];
    const int64_t count = counts[place];
    int64_t i = 0;
    for (; i + Vector::size() <= count; i += Vector::size()) {
      update(parameter + i, gradient + i, first + i, second + i, Vector::size());
    }
    if (i < count) {
      update(parameter + i, gradient + i, first + i, second + i, count - i);
    }
  }
}
