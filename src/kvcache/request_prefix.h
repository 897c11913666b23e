// kvcache/request_prefix.h
//
// What a router must know of a request's body: for which model it is, how it wants its answer, and
// the chain of hashes of its prompt.
//
//   RequestScanner scanner;
//   ASSIGN_OR_RETURN(const RequestPrefix prefix,
//                    scanner.Scan(RequestKind::kChat, body, {.salt = tenant}));
//   prefix.text       // One hash for each kTextBlockBytes of the canonical prompt.
//   prefix.stream     // Whether the client wants server-sent events.
//
// No tokenizer is needed. The prompt is rendered canonically: tools, then messages in their order,
// each with its role, its text, and images by a hash of their content (a data: URL's bytes, another
// URL itself). The rendering is hashed while it is made and is never kept: prompts are nobody's
// business. Prompts of token ids are kept as such, since the blocks of a chain depend on the
// replica.
//
// The body is read once, in the order in which it was written, whatever that is: messages may come
// before tools and the model last. Tools, documents, instructions and messages are sections, which
// are rendered as they come, each into blocks of its own; the chain is made of the blocks' hashes
// at the end, in the order in which engines' templates put the sections. A section begins with a
// new block, so what stands in front of it doesn't move it; its last block is padded.
//
// Equal to each other are bodies that differ in space, in escapes ("\u0041" and "A"), in the order
// of keys at the top, in a message, a part, a call, a tool and its function, and in the form of a
// content (a string, or one part with this text). What an engine's template may see in its order
// (a tool's parameters) counts as it is written, numbers by their digits. `chat_template`,
// `chat_template_kwargs` and `reasoning_effort` make another chain from its begin.
//
// Of a batch (a list of prompts or inputs) the first decides where it goes; the others count in
// `prompts` and `other_tokens`, since they are work.
//
// What isn't JSON, is nested deeper than kRequestDepthMax, isn't UTF-8, or has a key twice in an
// object that is read here is kInvalid. Twice, because engines take the last of the two and others
// the first: who lets both pass decides for a request that isn't the one that is served. What is
// JSON but not what this kind of request looks like gives an empty prefix (`known` is false): an
// engine may understand what we don't, and it is its place to refuse.
//
// The hashes are fast, not cryptographic: somebody may construct two prompts with one chain, and
// gains that a request of his goes to a replica that doesn't hold it.
//
// Memory: while it scans, 4 bytes for each token of JSON (at most four times the body); a scanner
// keeps what a body of kScannerKeepsBytes needs.
//
// Thread safety: pure; a RequestScanner has buffers to be used again and belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kvcache/block_hash.h"

namespace sublet {

// Of the path: what the body looks like.
enum class RequestKind {
  kChat,        // /v1/chat/completions
  kCompletion,  // /v1/completions
  kResponses,   // /v1/responses
  kEmbedding,   // /v1/embeddings
  kOther,       // Passed on unread.
};
// By the path's end, so that a prefix in front of /v1 doesn't matter. A query is passed over.
RequestKind RequestKindOf(std::string_view path);

// Some 64 tokens of English. Smaller blocks find more of a prefix and cost more to keep.
inline constexpr std::size_t kTextBlockBytes = 256;
inline constexpr int kRequestDepthMax = 128;  // Tool schemas nest some 20 levels.
inline constexpr std::size_t kRequestBytesMax = 64u << 20;
// Model, salt and session end up in tables and logs.
inline constexpr std::size_t kRequestNameBytesMax = 4096;
inline constexpr int kRequestChoicesMax = 128;  // OpenAI's limit of `n`.
// A 336-pixel image in LLaVA; others have 85 to some thousands.
inline constexpr std::size_t kMediaTokensAssumed = 576;

struct RequestPrefix {
  bool known = false;  // The prompt was found and understood.
  std::string model;   // As the client wrote it, an adapter's name too; empty: none.
  // Ours and the request's cache_salt. Where ours is empty, exactly the request's; otherwise ours,
  // a byte FF, the request's.
  std::string salt;

  // Text prompts. Hashes of the full blocks of the canonical rendering, and its length.
  std::vector<BlockHash> text;
  std::size_t text_bytes = 0;
  int media_items = 0;  // Images, sounds and files in it, each of which has a few bytes there.
  // Prompts of token ids.
  std::vector<TokenId> token_ids;

  int prompts = 1;               // Of a batch.
  std::size_t other_tokens = 0;  // Of the batch's prompts after the first, about.

  bool stream = false;
  int choices = 1;  // `n` or `best_of`, times `prompts`; each decodes by itself.
  std::optional<int> output_tokens_max;  // max_tokens, max_completion_tokens, max_output_tokens.
  std::string session;          // `session_id`, `prompt_cache_key` or `user`, in this order.
  std::optional<int> priority;  // vLLM's.

  // Tokens of the (first) prompt: exact for token ids, about four bytes each for text.
  std::size_t PromptTokens() const;
};

struct ScanOptions {
  // What separates tenants that mustn't share a cache. REQUIRES: no byte FF.
  std::string_view salt = {};
};

class RequestScanner {
 public:
  RequestScanner();
  ~RequestScanner();
  RequestScanner(RequestScanner&&) noexcept;
  RequestScanner& operator=(RequestScanner&&) noexcept;

  // `body` is copied only where it lacks simdjson's padding; reserve(size + kScanPadding) saves it.
  Result<RequestPrefix> Scan(RequestKind kind, const std::string& body,
                             const ScanOptions& options = {});

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

inline constexpr std::size_t kScanPadding = 64;  // What simdjson reads past the end.
// The virtual memory of 16 bytes of scratch a byte is given back after a larger body.
inline constexpr std::size_t kScannerKeepsBytes = 1u << 20;

}  // namespace sublet
