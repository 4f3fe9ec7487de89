#include "autograd/derivatives.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "tensors/library.h"

namespace trajgru_ext {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// How an operator's arguments lie, and what its backward operator, whose arguments are
// the gradients, the operator's own arguments and some flags, is asked and returns.
struct Derivative {
  // Of each tensor: the backward operator's result that is its gradient; -1: none.
  std::vector<int> results;
  // The tensors that a flag asks for.
  std::vector<std::vector<int>> flags;
  bool mask_last = false;  // the last tensor comes after the options
  // Options that are arguments of their own, a float or an int each; empty: a list.
  std::vector<c10::TypeKind> options = {};
  int only_for = -1;  // the first tensor is read only where this one's is wanted
  // How many of the tensors the backward operator takes, at most.
  size_t saved = std::numeric_limits<size_t>::max();
};

const std::map<std::string, Derivative>& derivatives() {
  static const std::map<std::string, Derivative> all = {
      {"flow_conv",
       {.results = {0, 1, 2, 3},
        .flags = {{0}, {1}, {2}, {3}},
        .options = {c10::TypeKind::FloatType},
        .saved = 3}},
      {"flow_warp",
       {.results = {0, 1},
        .flags = {{0}, {1}},
        .options = {c10::TypeKind::FloatType, c10::TypeKind::IntType},
        .only_for = 1}},
      {"gru_gates",
       {.results = {0, 1, 2, -1}, .flags = {{0}, {1}, {2}}, .mask_last = true}},
      {"gru_output",
       {.results = {0, 1, 2, -1}, .flags = {{0}, {1}, {2}}, .mask_last = true}},
      {"gru_reset", {.results = {0, 0, 1}, .flags = {{0, 1}, {2}}}},
      {"lstm_gates",
       {.results = {0, 0, 1, 2, 3, 4}, .flags = {{0, 1}, {2}, {3, 4, 5}}}},
      {"lstm_memory", {.results = {0, 0, 1}, .flags = {{0, 1}, {2}}}},
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

// The operator's handles, looked up once.
struct Entry {
  const std::string name;
  const Derivative derivative;
  const c10::OperatorHandle forward, backward;
};

const Entry& entry(const std::string& name) {
  static const std::map<std::string, Entry> all = [] {
    std::map<std::string, Entry> found;
    for (const auto& [key, derivative] : derivatives()) {
      found.emplace(key,
                    Entry{key, derivative, handle(key), handle(key + "_backward")});
    }
    return found;
  }();
  const auto found = all.find(name);
  TORCH_CHECK_VALUE(found != all.end(), "differentiable: there is no ", name);
  return found->second;
}

c10::IValue value_of(const Tensor& tensor) {
  return tensor.defined() ? c10::IValue(tensor) : c10::IValue();
}

void push_arguments(torch::jit::Stack& stack, const Derivative& derivative,
                    at::TensorList tensors, const std::vector<double>& numbers) {
  const size_t before = tensors.size() - (derivative.mask_last ? 1 : 0);
  for (size_t k = 0; k < before; ++k) stack.push_back(value_of(tensors[k]));
  if (derivative.options.empty()) stack.emplace_back(numbers);
  for (size_t k = 0; k < derivative.options.size(); ++k) {
    const bool is_int = derivative.options[k] == c10::TypeKind::IntType;
    const double number = numbers.at(k);
    stack.push_back(is_int ? c10::IValue(static_cast<int64_t>(number))
                           : c10::IValue(number));
  }
  if (derivative.mask_last) stack.push_back(value_of(tensors.back()));
}

variable_list run_forward(const Entry& what, const variable_list& tensors,
                          const std::vector<double>& numbers) {
  torch::jit::Stack stack;
  push_arguments(stack, what.derivative, tensors, numbers);
  what.forward.callBoxed(stack);
  variable_list results;
  for (const c10::IValue& one : stack) results.push_back(one.toTensor());
  return results;
}

OptionalTensors optional(const variable_list& tensors) {
  OptionalTensors found;
  for (const Tensor& one : tensors) {
    found.push_back(one.defined() ? OptionalTensor(one) : std::nullopt);
  }
  return found;
}

// All arguments, undefined where they are not given.
variable_list spread(const Derivative& derivative, at::TensorList tensors,
                     const std::vector<int64_t>& places) {
  variable_list all(derivative.results.size());
  for (size_t k = 0; k < places.size(); ++k) all[places[k]] = tensors[k];
  return all;
}

class Differentiable : public torch::autograd::Function<Differentiable> {
 public:
  static constexpr bool is_traceable = true;

  // tensors: those that are given; places: which arguments they are.
  static variable_list forward(AutogradContext* context, at::TensorList tensors,
                               const std::string& name,
                               const std::vector<int64_t>& places,
                               const std::vector<double>& numbers) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    context->set_materialize_grads(false);
    context->saved_data["name"] = name;
    context->saved_data["places"] = places;
    context->saved_data["numbers"] = numbers;
    const Entry& what = entry(name);
    const variable_list all = spread(what.derivative, tensors, places);
    variable_list saved = all;
    const int only_for = what.derivative.only_for;
    if (only_for >= 0 && !all[only_for].requires_grad()) saved[0] = Tensor();
    for (size_t k = what.derivative.saved; k < saved.size(); ++k) saved[k] = Tensor();
    context->save_for_backward(std::move(saved));
    return run_forward(what, all, numbers);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const Entry& what = entry(context->saved_data["name"].toStringRef());
    const Derivative& derivative = what.derivative;
    const size_t count = derivative.results.size();
    const auto places = context->saved_data["places"].toIntVector();
    variable_list found(places.size() + 3);  // three arguments are no tensors
    const bool any = std::any_of(grads.begin(), grads.end(),
                                 [](const Tensor& one) { return one.defined(); });
    if (!any) return found;
    const auto numbers = context->saved_data["numbers"].toDoubleVector();
    const variable_list saved = context->get_saved_variables();
    std::vector<bool> needs(count);
    for (size_t k = 0; k < places.size(); ++k) {
      needs[places[k]] = context->needs_input_grad(k);
    }
    if (at::GradMode::is_enabled()) {
      const auto gradients = again_function()(
          {what.name, optional(saved), numbers, needs, optional(grads)});
      for (size_t k = 0; k < places.size(); ++k) {
        const OptionalTensor& gradient = gradients[places[k]];
        if (needs[places[k]] && gradient.has_value()) found[k] = *gradient;
      }
      return found;
    }
    torch::jit::Stack stack;
    for (const Tensor& grad : grads) stack.push_back(value_of(grad));
    const at::TensorList arguments(saved);
    push_arguments(stack, derivative,
                   arguments.slice(0, std::min(derivative.saved, saved.size())),
                   numbers);
    for (const auto& tensors : derivative.flags) {
      stack.emplace_back(std::any_of(tensors.begin(), tensors.end(),
                                     [&](int k) { return bool(needs[k]); }));
    }
    what.backward.callBoxed(stack);
    for (size_t k = 0; k < places.size(); ++k) {
      if (!needs[places[k]]) continue;
      // The two parts of a sum have the same gradient, each in its dtype.
      found[k] = stack[derivative.results[places[k]]].toTensor();
      const Tensor& tensor = saved[places[k]];
      if (tensor.defined()) found[k] = found[k].to(tensor.scalar_type());
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
  variable_list given;
  std::vector<int64_t> places;
  for (size_t k = 0; k < tensors.size(); ++k) {
    if (!tensors[k].has_value()) continue;
    given.push_back(*tensors[k]);
    places.push_back(static_cast<int64_t>(k));
  }
  if (recorded(tensors)) {
    return Differentiable::apply(at::TensorList(given), name, places, numbers);
  }
  const Entry& what = entry(name);
  return run_forward(what, spread(what.derivative, given, places), numbers);
}

}  // namespace trajgru_ext
