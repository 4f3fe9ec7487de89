#pragma once

// Options of operators: a struct in Python (trajgru_ext/ops/_options.py) and one here,
// with the same fields in the same order. Through the dispatcher, which knows no
// structs, they travel as a list of numbers, one a field. A struct names its fields
// once, in visit(f), which calls f(name, field) for each.

#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>
#include <c10/util/SmallVector.h>

#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

namespace trajgru_ext {

template <typename Options>
std::vector<std::string> option_names() {
  std::vector<std::string> names;
  Options().visit([&](const char* name, auto&) { names.push_back(name); });
  return names;
}

using OptionNumbers = c10::SmallVector<double, 8>;

// The numbers that stand for some options.
template <typename Options>
OptionNumbers as_numbers(Options options) {
  OptionNumbers numbers;
  options.visit([&](const char*, const auto& field) {
    numbers.push_back(static_cast<double>(field));
  });
  return numbers;
}

// The options that some numbers stand for; what is an integer, a choice or a flag must
// be a whole number from 0 on.
template <typename Options>
Options read_options(const char* op, c10::ArrayRef<double> numbers) {
  Options options;
  size_t count = 0;
  options.visit([&](const char*, auto&) { ++count; });
  TORCH_CHECK_VALUE(numbers.size() == count, op, ": options must be ", count,
                    " numbers, got ", numbers.size());
  size_t k = 0;
  options.visit([&](const char* name, auto& field) {
    using Field = std::remove_reference_t<decltype(field)>;
    const double number = numbers[k++];
    if constexpr (!std::is_floating_point_v<Field>) {
      constexpr double most =
          std::is_same_v<Field, bool> ? 1 : std::numeric_limits<int>::max();
      TORCH_CHECK_VALUE(number >= 0 && number <= most && number == std::floor(number),
                        op, ": ", name, " must be a whole number from 0 to ", most,
                        ", got ", number);
    }
    field = static_cast<Field>(number);
  });
  return options;
}

}  // namespace trajgru_ext
