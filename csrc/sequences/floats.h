#pragma once

// Sequences of bfloat16 and float16 in float32, where the device is faster so
// (SequencePlan::in_floats): their tensors are converted once, not at every step.

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

#include <tuple>
#include <type_traits>
#include <vector>

#include "tensors/tensors.h"

namespace trajgru_ext {

// Arguments of an operator as it takes them in float32; images, also those of several
// steps, in the memory format that they are taken for.
inline at::Tensor floats(const at::Tensor& given) {
  if (!is_half(given.scalar_type())) return given;
  const int64_t dims = given.dim();
  if (given.numel() == 0 || (dims != 4 && dims != 5)) return given.to(at::kFloat);
  const auto format = memory_format(dims == 4 ? given : given.select(0, 0));
  const auto sizes = given.sizes();
  std::vector<int64_t> images(sizes.end() - 4, sizes.end());
  if (dims == 5) images[0] *= sizes[0];
  const at::Tensor made =
      at::empty(images, given.options().dtype(at::kFloat).memory_format(format));
  return (dims == 4 ? made : made.unflatten(0, sizes.slice(0, 2))).copy_(given);
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

// Results in the dtype that was asked for; each is let go of before the next is made.
template <typename... Tensors>
std::tuple<Tensors...> in_dtype(std::tuple<Tensors...> results,
                                const at::TensorOptions& options) {
  const at::ScalarType dtype = options.dtype().toScalarType();
  std::apply([&](auto&... one) { ((one = one.to(dtype)), ...); }, results);
  return results;
}

}  // namespace trajgru_ext
