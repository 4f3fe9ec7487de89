// Convolutions and products of matrices on an emulated device, which round to TF32
// where cuDNN and cuBLAS do.

#include <ATen/Context.h>
#include <ATen/ops/_convolution_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/mm.h>
#include <c10/util/ScopeExit.h>
#include <torch/library.h>

#include "capability.h"
#include "device/backend.h"
#include "tensors/tf32.h"

namespace emulation {
namespace {

using at::Tensor;
using Sizes = c10::SymIntArrayRef;

// An operand of a convolution.
Tensor operand(Borrowed& lent, const Tensor& tensor) {
  const Tensor found = lent.lend(tensor, false);
  return trajgru_ext::convolutions_take_tf32() ? round_to_tf32(found) : found;
}

// cuDNN wants its operands in one memory format, channels last where the image or the
// weight is, and PyTorch copies those that are not.
void count_copies(const Tensor& image, const Tensor& weight,
                  std::initializer_list<Tensor> operands) {
  const auto last = at::MemoryFormat::ChannelsLast;
  const bool any =
      image.suggest_memory_format() == last || weight.suggest_memory_format() == last;
  const auto format = any ? last : at::MemoryFormat::Contiguous;
  const std::lock_guard<std::recursive_mutex> held(lock());
  for (const Tensor& one : operands) {
    if (!one.is_contiguous(format)) add_count("a copy", 1, 2 * bytes_of(one));
  }
}

// Whether a convolution may round float32 to TF32, as _convolution is told.
thread_local bool tf32_convolution = false;

Tensor convolution_as_told(const Tensor& input, const Tensor& weight,
                           const std::optional<Tensor>& bias, at::IntArrayRef stride,
                           at::IntArrayRef padding, at::IntArrayRef dilation,
                           bool transposed, at::IntArrayRef output_padding,
                           int64_t groups, bool benchmark, bool deterministic,
                           bool cudnn, bool tf32) {
  const bool before = std::exchange(tf32_convolution, tf32);
  const auto restore = c10::make_scope_exit([&] { tf32_convolution = before; });
  Tensor found = at::native::_convolution(input, weight, std::nullopt, stride, padding,
                                          dilation, transposed, output_padding, groups,
                                          benchmark, deterministic, cudnn, tf32);
  if (bias && bias->defined()) {  // which cuDNN leaves to PyTorch
    std::vector<int64_t> sizes(found.dim(), 1);
    sizes[1] = bias->size(0);
    found.add_(bias->view(sizes));
  }
  return found;
}

Tensor convolution(const Tensor& input, const Tensor& weight,
                   const std::optional<Tensor>& bias, Sizes stride, Sizes padding,
                   Sizes dilation, bool transposed, Sizes output_padding,
                   c10::SymInt groups) {
  const Plain plain;
  Borrowed lent("convolution");
  Tensor x = lent.lend(input, false);
  Tensor w = lent.lend(weight, false);
  std::optional<Tensor> b;
  if (bias && bias->defined()) b = lent.lend(*bias, false);
  lent.begin(lent.device());
  count_copies(x, w, {x, w});
  if (tf32_convolution) {
    x = round_to_tf32(x);
    w = round_to_tf32(w);
  }
  return lent.give_back(at::convolution_symint(x, w, b, stride, padding, dilation,
                                               transposed, output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& grad, const Tensor& input, const Tensor& weight, Sizes stride,
    Sizes padding, Sizes dilation, bool transposed, Sizes output_padding,
    c10::SymInt groups, std::array<bool, 3> wanted) {
  const Plain plain;
  Borrowed lent("convolution_backward");
  for (const Tensor& one : {grad, input, weight}) lent.lend(one, false);
  lent.begin(lent.device());
  const Tensor g = operand(lent, grad), x = operand(lent, input),
               w = operand(lent, weight);
  count_copies(x, w, {g, x, w});
  const c10::SymInt outputs = transposed ? w.sym_size(1) * groups : w.sym_size(0);
  const auto [to_input, to_weight, to_bias] = at::convolution_backward_symint(
      g, x, w, at::OptionalSymIntArrayRef({outputs}), stride, padding, dilation,
      transposed, output_padding, groups, wanted);
  return {lent.give_back(to_input), lent.give_back(to_weight), lent.give_back(to_bias)};
}

// Products of less than float32, to sums of float32, which the CPU does not have.
Tensor& addmm_to(const char* name, const std::optional<Tensor>& sum, const Tensor& a,
                 const Tensor& b, const at::Scalar& beta, const at::Scalar& alpha,
                 at::ScalarType dtype, Tensor& result) {
  const Plain plain;
  TORCH_CHECK(dtype == at::kFloat && result.scalar_type() == dtype &&
                  (!sum || sum->scalar_type() == dtype) && a.element_size() == 2 &&
                  b.scalar_type() == a.scalar_type(),
              "emulated: ", name, " has no such dtypes");
  TORCH_CHECK(a.scalar_type() == at::kHalf
                  ? !at::globalContext().allowFP16AccumulationCuBLAS()
                  : capability() >= 80,
              "emulated: ", name, " makes no sums of float32 of ", a.scalar_type());
  Borrowed lent(name);
  const Tensor to = lent.lend(result, true);
  const Tensor from = sum ? lent.lend(*sum, false) : to;
  const Tensor one = lent.lend(a, false), other = lent.lend(b, false);
  lent.begin(lent.device());
  const Tensor product = at::mm(one.to(dtype), other.to(dtype)).mul_(alpha);
  to.copy_(sum ? from.mul(beta).add_(product) : product);
  return result;
}

Tensor& mm_dtype_out(const Tensor& a, const Tensor& b, at::ScalarType dtype,
                     Tensor& result) {
  return addmm_to("aten::mm", std::nullopt, a, b, 0, 1, dtype, result);
}

Tensor& addmm_dtype_out(const Tensor& sum, const Tensor& a, const Tensor& b,
                        at::ScalarType dtype, const at::Scalar& beta,
                        const at::Scalar& alpha, Tensor& result) {
  return addmm_to("aten::addmm", sum, a, b, beta, alpha, dtype, result);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("mm.dtype_out", &mm_dtype_out);
  m.impl("addmm.dtype_out", &addmm_dtype_out);
  m.impl("_convolution", &convolution_as_told);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
}

}  // namespace

// The factors of a product of matrices, among the CPU's operator's arguments, where
// cuBLAS would round them: by the flag, but for threads that have a guard, of which
// cuBLASLt, which adds a vector in the same kernel, knows nothing.
void round_factors(const c10::FunctionSchema& schema, torch::jit::Stack* stack) {
  const std::string& name = schema.name();
  const bool whole = name == "aten::mm" || name == "aten::bmm";
  if (!whole && name != "aten::addmm" && name != "aten::baddbmm") return;
  const size_t first = stack->size() - schema.arguments().size();
  const bool by_lt = name == "aten::addmm" && (*stack)[first].toTensor().dim() == 1;
  const bool guarded = at::NoTF32Guard::should_disable_tf32() && !by_lt;
  if (guarded || !trajgru_ext::products_take_tf32()) return;
  for (size_t k = 0; k < schema.arguments().size(); ++k) {
    const std::string& argument = schema.arguments()[k].name();
    const bool factor = argument == "self" ? whole : argument != "out";
    c10::IValue& value = (*stack)[first + k];
    if (factor && value.isTensor()) value = round_to_tf32(value.toTensor());
  }
}

}  // namespace emulation
