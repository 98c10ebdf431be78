// `torch.ops.focal_plugin.empty_recycled` and `forget_recycled`: see `focal_plugin/ops/recycled.py`.

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace {

struct Block {
  size_t bytes;
  c10::DataPtr memory;
};

// Blocks that no tensor has. They are not destroyed before PyTorch's allocator.
struct Free {
  std::mutex mutex;
  std::vector<std::unique_ptr<Block>> blocks;
};

Free& free_blocks() {
  static auto* all = new Free;
  return *all;
}

bool is_smaller(const std::unique_ptr<Block>& a, const std::unique_ptr<Block>& b) {
  return a->bytes < b->bytes;
}

// The smallest free block of at least this size. If all of them are too small, the largest is freed
// and replaced, so that there are never more blocks than were in use at once.
std::unique_ptr<Block> take(size_t bytes) {
  Free& free = free_blocks();
  const std::lock_guard<std::mutex> lock(free.mutex);
  auto& blocks = free.blocks;
  std::sort(blocks.begin(), blocks.end(), is_smaller);
  const auto fits = [=](const std::unique_ptr<Block>& block) { return block->bytes >= bytes; };
  const auto found = std::find_if(blocks.begin(), blocks.end(), fits);
  if (found != blocks.end()) {
    std::unique_ptr<Block> block = std::move(*found);
    blocks.erase(found);
    return block;
  }
  if (!blocks.empty()) blocks.pop_back();
  return std::make_unique<Block>(Block{bytes, at::getCPUAllocator()->allocate(bytes)});
}

// Called when the last tensor that has the block is gone.
void give_back(void* block) {
  Free& free = free_blocks();
  const std::lock_guard<std::mutex> lock(free.mutex);
  free.blocks.emplace_back(static_cast<Block*>(block));
}

at::Tensor empty_recycled(const at::Tensor& like) {
  TORCH_CHECK(like.is_cpu() && like.is_contiguous(), "a contiguous tensor on the CPU is required");
  Block* block = take(like.nbytes()).release();
  c10::DataPtr memory(block->memory.get(), block, give_back, like.device());
  const c10::Storage storage(c10::Storage::use_byte_size_t(), like.nbytes(), std::move(memory));
  return at::empty({0}, like.options()).set_(storage, 0, like.sizes(), like.strides());
}

int64_t forget_recycled() {
  Free& free = free_blocks();
  const std::lock_guard<std::mutex> lock(free.mutex);
  int64_t bytes = 0;
  for (const auto& block : free.blocks) bytes += static_cast<int64_t>(block->bytes);
  free.blocks.clear();
  return bytes;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(focal_plugin, m) {
  m.def("empty_recycled(Tensor like) -> Tensor");
  m.def("forget_recycled() -> int", forget_recycled);
}

TORCH_LIBRARY_IMPL(focal_plugin, CPU, m) { m.impl("empty_recycled", empty_recycled); }
