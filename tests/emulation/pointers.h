#pragma once

// The pointers among a kernel's arguments, and whether the kernel may write by them: by
// all that are not to const.
//
// C++ does not say where the members of a struct lie. So a value of each type is made
// whose pointers are marks, and its bytes are looked through for these.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

namespace emulation {

struct Pointer {
  uint64_t address;
  bool writes;
};

constexpr uint64_t kMarkOfConst = 0x5a5a'c057'5a5a'c057;
constexpr uint64_t kMarkOfWritten = 0xa5a5'3417'a5a5'3417;

template <typename T>
T marked();

// Takes the place of any member.
struct AnyMember {
  template <typename T>
  operator T() const {
    return marked<T>();
  }
};

template <size_t>
using MemberAt = AnyMember;

template <typename T, size_t... k>
constexpr bool is_made_of(std::index_sequence<k...>) {
  return requires { T{MemberAt<k>{}...}; };
}

// Members, bases and elements of members that are arrays.
template <typename T, size_t count = 0>
constexpr size_t member_count() {
  if constexpr (is_made_of<T>(std::make_index_sequence<count + 1>())) {
    return member_count<T, count + 1>();
  } else {
    return count;
  }
}

template <typename T>
T marked() {
  if constexpr (std::is_pointer_v<T>) {
    constexpr bool reads = std::is_const_v<std::remove_pointer_t<T>>;
    return reinterpret_cast<T>(reads ? kMarkOfConst : kMarkOfWritten);
  } else if constexpr (std::is_class_v<T>) {
    static_assert(std::is_aggregate_v<T>, "a kernel's structs are plain");
    return []<size_t... k>(std::index_sequence<k...>) {
      static_assert(!requires { T{MemberAt<k>{}..., {}}; }, "no mark for a member");
      return T{MemberAt<k>{}...};
    }(std::make_index_sequence<member_count<T>()>());
  } else {
    return T{};
  }
}

// Calls visit(k, word) for each of a value's whole words of 64 bits.
template <typename T, typename Visit>
void visit_words(const T& value, const Visit& visit) {
  for (size_t k = 0; (k + 1) * sizeof(uint64_t) <= sizeof(T); ++k) {
    uint64_t word;
    std::memcpy(&word, reinterpret_cast<const char*>(&value) + k * sizeof(word),
                sizeof(word));
    visit(k, word);
  }
}

// A mark, or 0, for each word of a type.
template <typename T>
const std::vector<uint64_t>& marks_of() {
  static const auto found = [] {
    std::vector<uint64_t> marks;
    T value = marked<T>();
    if constexpr (std::is_class_v<T>) __builtin_clear_padding(&value);
    visit_words(value, [&](size_t, uint64_t word) {
      marks.push_back(word == kMarkOfConst || word == kMarkOfWritten ? word : 0);
    });
    return marks;
  }();
  return found;
}

template <typename T>
void append_pointers(std::vector<Pointer>& pointers, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>, "a kernel's arguments are plain");
  const std::vector<uint64_t>& marks = marks_of<T>();
  visit_words(value, [&](size_t k, uint64_t word) {
    if (marks[k] != 0 && word != 0)
      pointers.push_back({word, marks[k] == kMarkOfWritten});
  });
}

}  // namespace emulation
