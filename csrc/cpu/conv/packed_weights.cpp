#include "cpu/conv/packed_weights.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "cpu/conv/fingerprint.h"
#include "cpu/conv/winograd_conv.h"
#include "cpu/scratch.h"

namespace trajgru_ext {
namespace {

using at::Tensor;
using Key = std::vector<int64_t>;
using Storage = c10::weak_intrusive_ptr<c10::StorageImpl>;

struct Packing {
  Tensor values;
  int64_t last_use = 0;
};

// Where weights lie, and what was packed from them last.
struct Owner {
  std::vector<Storage> storages;
  std::shared_ptr<Packing> packed;

  bool gone() const {
    return std::any_of(storages.begin(), storages.end(),
                       [](const Storage& one) { return one.expired(); });
  }
};

// All that is kept: a packing lives as long as one of its owners. Weights that are
// computed anew for every use, as those with a spectral norm, are gone between two
// uses: where contents return after that, their packing outlives its owners while it is
// used.
class Store {
 public:
  // The packing of these contents, which from now on belongs to this place.
  Tensor find(const Key& contents, const Key& place, at::TensorList weights) {
    const std::lock_guard lock(mutex_);
    const auto found = packings_.find(contents);
    const auto packed = found == packings_.end() ? nullptr : found->second.lock();
    if (packed == nullptr) return {};
    own(packed, place, weights);
    return packed->values;
  }

  void keep(const Key& contents, const Key& place, at::TensorList weights,
            const Tensor& values) {
    const std::lock_guard lock(mutex_);
    drop_gone();
    if (bytes_of(values) > limit_) return;
    const auto packed = std::make_shared<Packing>(Packing{values});
    packings_[contents] = packed;
    if (used_.contains(contents)) returning_[contents] = packed;
    own(packed, place, weights);
    fit();
  }

  // The memory of what was packed from this place before, where nothing else needs it.
  Tensor take(const Key& place) {
    const std::lock_guard lock(mutex_);
    const auto found = owners_.find(place);
    if (found == owners_.end()) return {};
    const auto& packed = found->second.packed;
    if (packed.use_count() > 1 || packed->values.use_count() > 1) return {};
    const Tensor values = packed->values;
    owners_.erase(found);
    return values;
  }

  // Whether these contents were used lately and not kept; from now on they were.
  bool used(const Key& contents) {
    const std::lock_guard lock(mutex_);
    const bool before = used_.contains(contents);
    used_[contents] = ++uses_;
    if (used_.size() > 2 * kManyUses) forget();
    return before;
  }

  int64_t limit() const {
    const std::lock_guard lock(mutex_);
    return limit_;
  }

  void set_limit(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    limit_ = bytes;
    fit();
  }

  int64_t bytes() {
    const std::lock_guard lock(mutex_);
    returning_.clear();
    drop_gone();
    return kept();
  }

 private:
  static int64_t bytes_of(const Tensor& values) {
    return static_cast<int64_t>(values.nbytes());
  }

  void own(const std::shared_ptr<Packing>& packed, const Key& place,
           at::TensorList weights) {
    packed->last_use = ++uses_;
    auto found = owners_.find(place);
    if (found != owners_.end() && !found->second.gone()) {
      found->second.packed = packed;
      return;
    }
    // Weights that are computed anew for every use leave owners behind that are gone.
    if (owners_.size() >= 2 * owners_left_ + kFewOwners) drop_gone();
    std::vector<Storage> storages;
    for (const Tensor& weight : weights) {
      storages.push_back(weight.storage().getWeakStorageImpl());
    }
    owners_[place] = {std::move(storages), packed};
  }

  void drop_gone() {
    std::erase_if(owners_, [](const auto& owner) { return owner.second.gone(); });
    std::erase_if(returning_, [&](const auto& one) {
      return one.second->last_use + kManyUses < uses_;
    });
    for (const auto& [contents, packing] : packings_) {
      if (packing.expired()) used_[contents] = uses_;
    }
    std::erase_if(packings_, [](const auto& one) { return one.second.expired(); });
    forget();
    owners_left_ = owners_.size();
  }

  void forget() {
    std::erase_if(used_,
                  [&](const auto& one) { return one.second + kManyUses < uses_; });
  }

  int64_t kept() const {
    int64_t sum = 0;
    for (const auto& [contents, packing] : packings_) {
      if (const auto packed = packing.lock()) sum += bytes_of(packed->values);
    }
    return sum;
  }

  // Drops what was used longest ago until the limit holds.
  void fit() {
    for (int64_t size = kept(); size > limit_;) {
      std::shared_ptr<Packing> oldest;
      for (const auto& [contents, packing] : packings_) {
        const auto packed = packing.lock();
        if (packed == nullptr) continue;
        if (oldest == nullptr || packed->last_use < oldest->last_use) oldest = packed;
      }
      if (oldest == nullptr) break;
      std::erase_if(owners_,
                    [&](const auto& owner) { return owner.second.packed == oldest; });
      std::erase_if(returning_, [&](const auto& one) { return one.second == oldest; });
      size -= bytes_of(oldest->values);
      oldest.reset();
      std::erase_if(packings_, [](const auto& one) { return one.second.expired(); });
    }
  }

  static constexpr size_t kFewOwners = 64;
  static constexpr int64_t kManyUses = 512;

  mutable std::mutex mutex_;
  std::map<Key, Owner> owners_;
  std::map<Key, std::weak_ptr<Packing>> packings_;
  // What outlives its owners; and of contents that are not kept, when they were used.
  std::map<Key, std::shared_ptr<Packing>> returning_;
  std::map<Key, int64_t> used_;
  size_t owners_left_ = 0;
  int64_t limit_ = int64_t{1} << 30;
  int64_t uses_ = 0;
};

// Never destroyed: threads may convolve while the process ends.
Store& store() {
  static Store& all = *new Store;
  return all;
}

void append(Key& key, at::IntArrayRef values) {
  key.insert(key.end(), values.begin(), values.end());
}

Tensor pack(at::TensorList weights, bool rotated, int64_t gates,
            const std::function<Tensor(int64_t)>& allocate) {
  std::vector<Tensor> floats;
  for (const Tensor& weight : weights) floats.push_back(weight.to(at::kFloat));
  return winograd_weights(floats, rotated, gates, allocate);
}

Tensor allocate(int64_t floats) {
  return at::empty({floats}, at::kFloat);
}

struct Keys {
  Key contents, place;

  Keys(at::TensorList weights, bool rotated, int64_t gates)
      : contents{rotated, gates}, place{rotated, gates} {
    for (const Tensor& weight : weights) {
      const auto dtype = static_cast<int64_t>(weight.scalar_type());
      const Tensor dense =
          weight.is_non_overlapping_and_dense() ? weight : weight.contiguous();
      const Fingerprint print = fingerprint(dense.const_data_ptr(), dense.nbytes());
      for (Key* key : {&contents, &place}) {
        key->push_back(dtype);
        append(*key, weight.sizes());
        append(*key, weight.strides());
      }
      for (const uint64_t word : print) contents.push_back(static_cast<int64_t>(word));
      place.push_back(
          reinterpret_cast<int64_t>(weight.storage().unsafeGetStorageImpl()));
      place.push_back(weight.storage_offset());
    }
  }
};

// What is kept or, where there is none, packed to be; undefined where it should not be.
Tensor kept(at::TensorList weights, bool rotated, int64_t gates, bool once) {
  if (store().limit() == 0) return {};
  // What is kept is read under inference mode and outside of it.
  const c10::InferenceMode outlives(false);
  const Keys keys(weights, rotated, gates);
  const Tensor found = store().find(keys.contents, keys.place, weights);
  if (found.defined() || (once && !store().used(keys.contents))) return found;
  const Tensor before = store().take(keys.place);
  const Tensor packed = pack(weights, rotated, gates, [&](int64_t floats) {
    return before.defined() ? before : allocate(floats);
  });
  store().keep(keys.contents, keys.place, weights, packed);
  return packed;
}

}  // namespace

Tensor packed_weights(at::TensorList weights, bool rotated, int64_t gates) {
  const Tensor found = kept(weights, rotated, gates, false);
  return found.defined() ? found : pack(weights, rotated, gates, allocate);
}

void with_packed_weight(const Tensor& weight, bool rotated, bool once,
                        const std::function<void(const Tensor&)>& f) {
  if (const Tensor found = kept({weight}, rotated, 1, once); found.defined()) {
    return f(found);
  }
  std::optional<Scratch<Packing>> memory;
  f(pack({weight}, rotated, 1, [&](int64_t floats) {
    memory.emplace(floats);
    return at::from_blob(memory->data(), {floats}, at::kFloat);
  }));
}

int64_t packed_weights_limit() {
  return store().limit();
}

void set_packed_weights_limit(int64_t bytes) {
  store().set_limit(bytes);
}

int64_t packed_weights_bytes() {
  return store().bytes();
}

}  // namespace trajgru_ext
