// replay/trace_reader.h
//
// Recorded traces, as their publishers write them.
//
//   ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kTraceBytesMax));
//   ASSIGN_OR_RETURN(const Trace trace, ParseTrace(text, path));
//
// | what | looks like |
// |---|---|
// | Mooncake | a JSON object a line: timestamp in ms, input_length, output_length, hash_ids of 512
// | | Qwen-Bailian | a JSON object a line: chat_id, parent_chat_id, timestamp in s, hash_ids of 16
// | | Azure LLM inference | CSV: TIMESTAMP,ContextTokens,GeneratedTokens | | BurstGPT | CSV:
// Timestamp,Model,Request tokens,Response tokens,... |
//
// Which one it is, the first line tells. Of a trace without hashes, every prompt is another one:
// it says something about load, and nothing about caches.
//
// Keys and columns that aren't needed are passed over. What is needed and is missing, of the wrong
// type, out of range or at odds with its neighbours is kInvalid, with the line's number. Requests
// of one tick are spread over it (replay/trace.h), and those out of order are put in order.
//
// Thread safety: pure.
#pragma once

#include <cstddef>
#include <string_view>

#include "base/result.h"
#include "replay/trace.h"

namespace sublet {

// Qwen-Bailian's largest has some 300 MB.
inline constexpr std::size_t kTraceBytesMax = 2048ull << 20;
inline constexpr std::size_t kTraceLineBytesMax = 16u << 20;  // A hash for each 16 of 16 M tokens.

// `source` names the trace in errors and is its name.
Result<Trace> ParseTrace(std::string_view text, std::string_view source);

}  // namespace sublet
