#include "autograd/derivatives.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <utility>

#include "autograd/rules.h"
#include "tensors/library.h"

namespace trajgru_ext {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;

// How an operator's arguments lie, and what its backward operator, whose arguments are
// the gradients, the operator's own arguments and some flags, is asked and returns.
struct Derivative {
  // Of each tensor: the backward operator's result that is its gradient; -1: none.
  std::vector<int> results;
  // The tensors that a flag asks for.
  std::vector<std::vector<int>> flags;
  bool mask_last = false;  // the last tensor comes after the options
  // Options that are arguments of their own, a float or an int each; else a list.
  std::optional<std::vector<c10::TypeKind>> options = std::nullopt;
  int only_for = -1;  // the first tensor is read only where this one's is wanted
  // How many of the tensors the backward operator takes, at most.
  size_t saved = std::numeric_limits<size_t>::max();
};

const std::map<std::string, Derivative>& derivatives() {
  static const std::map<std::string, Derivative> all = {
      {"flow_conv",
       {.results = {0, 1, 2, 3},
        .flags = {{0}, {1}, {2}, {3}},
        .options = {{c10::TypeKind::FloatType}},
        .saved = 3}},
      {"flow_warp",
       {.results = {0, 1},
        .flags = {{0}, {1}},
        .options = {{c10::TypeKind::FloatType, c10::TypeKind::IntType}},
        .only_for = 1}},
      {"gru_gates",
       {.results = {0, 1, 2, -1}, .flags = {{0}, {1}, {2}}, .mask_last = true}},
      {"gru_output",
       {.results = {0, 1, 2, -1}, .flags = {{0}, {1}, {2}}, .mask_last = true}},
      {"gru_reset", {.results = {0, 0, 1}, .flags = {{0, 1}, {2}}}},
      {"lstm_gates",
       {.results = {0, 0, 1, 2, 3, 4}, .flags = {{0, 1}, {2}, {3, 4, 5}}}},
      {"lstm_memory", {.results = {0, 0, 1}, .flags = {{0, 1}, {2}}}},
      {"se_scale",
       {.results = {0, 1},
        .flags = {{0}, {1}},
        .options = std::vector<c10::TypeKind>{}}},
  };
  return all;
}

AgainFunction& again_function() {
  static AgainFunction function;
  return function;
}

c10::OperatorHandle handle(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(
      (TRAJGRU_NAMESPACE_NAME "::" + name).c_str(), "");
}

c10::IValue value_of(const Tensor& tensor) {
  return tensor.defined() ? c10::IValue(tensor) : c10::IValue();
}

// The rule of an operator that the table has; its handles are looked up once.
class TableRule : public Rule {
 public:
  TableRule(const std::string& name, Derivative how)
      : how_(std::move(how)),
        forward_(handle(name)),
        backward_(handle(name + "_backward")) {}

  Tensors forward(at::TensorList tensors, const Numbers& numbers) const override {
    torch::jit::Stack stack;
    push_arguments(stack, tensors, numbers);
    forward_.callBoxed(stack);
    Tensors results;
    for (const c10::IValue& one : stack) results.push_back(one.toTensor());
    return results;
  }

  void forget(Tensors& saved) const override {
    if (how_.only_for >= 0 && !saved[how_.only_for].requires_grad()) {
      saved[0] = Tensor();
    }
    for (size_t k = how_.saved; k < saved.size(); ++k) saved[k] = Tensor();
  }

  Tensors backward(at::TensorList grads, at::TensorList saved, const Numbers& numbers,
                   const Needs& needs) const override {
    torch::jit::Stack stack;
    for (const Tensor& grad : grads) stack.push_back(value_of(grad));
    push_arguments(stack, saved.slice(0, std::min(how_.saved, saved.size())), numbers);
    for (const auto& tensors : how_.flags) {
      stack.emplace_back(std::any_of(tensors.begin(), tensors.end(),
                                     [&](int k) { return bool(needs[k]); }));
    }
    backward_.callBoxed(stack);
    Tensors found(saved.size());
    for (size_t k = 0; k < found.size(); ++k) {
      if (!needs[k]) continue;
      // The two parts of a sum have the same gradient, each in its dtype.
      found[k] = stack[how_.results[k]].toTensor();
      if (saved[k].defined()) found[k] = found[k].to(saved[k].scalar_type());
    }
    return found;
  }

 private:
  void push_arguments(torch::jit::Stack& stack, at::TensorList tensors,
                      const Numbers& numbers) const {
    const size_t before = tensors.size() - (how_.mask_last ? 1 : 0);
    for (size_t k = 0; k < before; ++k) stack.push_back(value_of(tensors[k]));
    if (!how_.options.has_value()) {
      stack.emplace_back(numbers);
    } else {
      for (size_t k = 0; k < how_.options->size(); ++k) {
        const bool is_int = (*how_.options)[k] == c10::TypeKind::IntType;
        const double number = numbers.at(k);
        stack.push_back(is_int ? c10::IValue(static_cast<int64_t>(number))
                               : c10::IValue(number));
      }
    }
    if (how_.mask_last) stack.push_back(value_of(tensors.back()));
  }

  const Derivative how_;
  const c10::OperatorHandle forward_, backward_;
};

const Rule& rule(const std::string& name) {
  static const Rules all = [] {
    Rules found = branch_rules();
    for (const auto& [key, derivative] : derivatives()) {
      found.emplace(key, std::make_unique<TableRule>(key, derivative));
    }
    return found;
  }();
  const auto found = all.find(name);
  TORCH_CHECK_VALUE(found != all.end(), "differentiable: there is no ", name);
  return *found->second;
}

OptionalTensors optional(const Tensors& tensors) {
  OptionalTensors found;
  for (const Tensor& one : tensors) {
    found.push_back(one.defined() ? OptionalTensor(one) : std::nullopt);
  }
  return found;
}

class Differentiable : public torch::autograd::Function<Differentiable> {
 public:
  static constexpr bool is_traceable = true;

  // tensors: those that are given; places: which they are of so many arguments.
  static Tensors forward(AutogradContext* context, at::TensorList tensors,
                         const std::string& name, const std::vector<int64_t>& places,
                         int64_t count, const Numbers& numbers) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    context->set_materialize_grads(false);
    context->saved_data["name"] = name;
    context->saved_data["places"] = places;
    context->saved_data["numbers"] = numbers;
    const Rule& how = rule(name);
    Tensors all(count);
    for (size_t k = 0; k < places.size(); ++k) all[places[k]] = tensors[k];
    const Tensors results = how.forward(all, numbers);
    how.forget(all);
    context->save_for_backward(std::move(all));
    return results;
  }

  static Tensors backward(AutogradContext* context, Tensors grads) {
    const std::string& name = context->saved_data["name"].toStringRef();
    const Rule& how = rule(name);
    const auto places = context->saved_data["places"].toIntVector();
    Tensors found(places.size() + 4);  // four arguments are no tensors
    const bool any = std::any_of(grads.begin(), grads.end(),
                                 [](const Tensor& one) { return one.defined(); });
    if (!any) return found;
    const auto numbers = context->saved_data["numbers"].toDoubleVector();
    const Tensors saved = context->get_saved_variables();
    Needs needs(saved.size());
    for (size_t k = 0; k < places.size(); ++k) {
      needs[places[k]] = context->needs_input_grad(k);
    }
    if (at::GradMode::is_enabled() && !how.of_torch()) {
      const auto gradients =
          again_function()({name, optional(saved), numbers, needs, optional(grads)});
      for (size_t k = 0; k < places.size(); ++k) {
        const OptionalTensor& gradient = gradients[places[k]];
        if (needs[places[k]] && gradient.has_value()) found[k] = *gradient;
      }
      return found;
    }
    std::optional<at::AutoDispatchBelowADInplaceOrView> no_autograd;
    if (!at::GradMode::is_enabled()) no_autograd.emplace();
    const Tensors gradients = how.backward(grads, saved, numbers, needs);
    for (size_t k = 0; k < places.size(); ++k) {
      if (needs[places[k]]) found[k] = gradients[places[k]];
    }
    return found;
  }
};

}  // namespace

void set_differentiate_again(AgainFunction function) {
  again_function() = std::move(function);
}

bool recorded(const OptionalTensors& tensors) {
  return at::GradMode::is_enabled() &&
         std::any_of(tensors.begin(), tensors.end(), [](const OptionalTensor& one) {
           return one.has_value() && one->requires_grad();
         });
}

std::vector<Tensor> differentiable(const std::string& name,
                                   const OptionalTensors& tensors,
                                   const std::vector<double>& numbers) {
  if (!recorded(tensors)) {
    // What torch does for operators that have no derivative takes as long as this.
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    Tensors all;
    for (const OptionalTensor& one : tensors) all.push_back(one.value_or(Tensor()));
    return rule(name).forward(all, numbers);
  }
  Tensors given;
  std::vector<int64_t> places;
  for (size_t k = 0; k < tensors.size(); ++k) {
    if (!tensors[k].has_value()) continue;
    given.push_back(*tensors[k]);
    places.push_back(static_cast<int64_t>(k));
  }
  const auto count = static_cast<int64_t>(tensors.size());
  return Differentiable::apply(at::TensorList(given), name, places, count, numbers);
}

}  // namespace trajgru_ext
