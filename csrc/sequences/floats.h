#pragma once

// Sequences of bfloat16 and float16 in float32, where the device is faster so
// (SequencePlan::in_floats): their tensors are converted once, not at every step.

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

#include <tuple>

#include "tensors/tensors.h"

namespace trajgru_ext {

// Arguments of an operator as it takes them in float32.
inline at::Tensor floats(const at::Tensor& given) {
  return at::isReducedFloatingType(given.scalar_type()) ? given.to(at::kFloat) : given;
}

inline OptionalTensor floats(const OptionalTensor& given) {
  return given.has_value() ? OptionalTensor(floats(*given)) : std::nullopt;
}

inline c10::List<OptionalTensor> floats(const c10::List<OptionalTensor>& given) {
  c10::List<OptionalTensor> converted;
  for (size_t k = 0; k < given.size(); ++k) converted.push_back(floats(given.get(k)));
  return converted;
}

template <typename T>
const T& floats(const T& given) {
  return given;
}

// What an operator returns that is called with them.
template <typename Results, typename... Arguments>
Results in_floats(Results (*op)(Arguments...),
                  const std::remove_cvref_t<Arguments>&... arguments) {
  return op(floats(arguments)...);
}

// Results in the dtype that was asked for.
template <typename... Tensors>
std::tuple<Tensors...> in_dtype(const std::tuple<Tensors...>& results,
                                const at::TensorOptions& options) {
  const at::ScalarType dtype = options.dtype().toScalarType();
  return std::apply(
      [&](const auto&... one) { return std::make_tuple(one.to(dtype)...); }, results);
}

}  // namespace trajgru_ext
