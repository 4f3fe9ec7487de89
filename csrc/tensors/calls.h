#pragma once

// Operators as C++ calls them: by way of the dispatcher, which finds the device's.

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "tensors/library.h"

namespace trajgru_ext {

// Text as a parameter of a template.
template <size_t size>
struct Text {
  char characters[size];

  constexpr Text(const char (&text)[size]) { std::copy_n(text, size, characters); }
};

// An operator that is called as a function is; name: with its namespace, so that two
// builds in one process never share what they have looked up.
template <Text name, typename Signature>
struct Operator;

template <Text name, typename Result, typename... Arguments>
struct Operator<name, Result(Arguments...)> {
  Result operator()(Arguments... arguments) const {
    static const auto found = c10::Dispatcher::singleton()
                                  .findSchemaOrThrow(name.characters, "")
                                  .template typed<Result(Arguments...)>();
    return found.call(std::forward<Arguments>(arguments)...);
  }
};

// The operator of this name, whose kernels have the signature of `function`.
#define TRAJGRU_OPERATOR(name, function)                             \
  inline constexpr Operator<TRAJGRU_NAMESPACE_NAME "::" #name,       \
                            std::remove_cvref_t<decltype(function)>> \
      name {}

}  // namespace trajgru_ext
