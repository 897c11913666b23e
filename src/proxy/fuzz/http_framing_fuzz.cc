// Whatever the bytes: what is read of a message doesn't depend on how the network cut them, and
// what we make of a message that we take is read by another reader, Beast's own, as that message
// and nothing behind it. The second is what no smuggled request survives.

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "proxy/head_writer.h"
#include "proxy/message_head.h"

namespace {

using namespace sublet;            // NOLINT(google-build-using-namespace)
using namespace sublet::internal;  // NOLINT(google-build-using-namespace)
namespace http = boost::beast::http;

void Require(bool condition) {
  if (!condition) std::abort();
}

struct ReadMessage {
  bool head = false;
  bool broken = false;
  bool done = false;
  std::string body;
};

template <bool kIsRequest>
ReadMessage ReadInPieces(std::string_view text, std::size_t piece,
                         MessageReader<kIsRequest>& reader, std::string& head_text,
                         std::size_t& used_all) {
  ReadMessage message;
  HeadEnd end;
  std::string in;
  std::size_t came = 0;
  const auto more = [&] {
    const std::size_t size = std::min(piece, text.size() - came);
    in.append(text.substr(came, size));
    came += size;
    return size > 0;
  };
  HeadEnd::Look look = HeadEnd::Look::kMore;
  while ((look = end.At(in, 4096, 20)) == HeadEnd::Look::kMore && more()) {
  }
  if (look != HeadEnd::Look::kWhole) return message;
  head_text = in.substr(0, end.size());
  used_all = end.size();
  in.erase(0, end.size());
  message.head = reader.ReadHead(head_text).has_value();
  if (!message.head) return message;
  std::vector<std::string_view> pieces;
  do {
    pieces.clear();
    const Result<std::size_t> used = reader.Decode(in, pieces);
    message.broken = !used;
    if (!used) return message;
    for (const std::string_view part : pieces) message.body += part;
    in.erase(0, *used);
    used_all += *used;
  } while (!reader.done() && more());
  message.done = reader.done();
  return message;
}

template <bool kIsRequest>
void CheckSecondReader(const std::string& sent, const ReadMessage& message,
                       const MessageHead& head) {
  http::parser<kIsRequest, http::string_body> second;
  second.body_limit(boost::none);
  second.header_limit(1u << 20);
  second.eager(true);
  boost::system::error_code error;
  const std::size_t used = second.put(boost::asio::buffer(sent), error);
  Require(!error);
  if constexpr (kIsRequest) {
    Require(second.is_done());
    Require(used == sent.size());
    Require(second.get().method_string() ==
            boost::beast::string_view(head.method.data(), head.method.size()));
    Require(second.get().body() == message.body);
  } else {
    Require(second.is_header_done());
    Require(second.get().result_int() == static_cast<unsigned>(head.status));
  }
}

template <bool kIsRequest>
void Run(std::string_view text, std::size_t piece) {
  MessageReader<kIsRequest> reader;
  MessageReader<kIsRequest> again;
  std::string head_text;
  std::string head_again;
  std::size_t used = 0;
  std::size_t used_again = 0;
  const ReadMessage whole = ReadInPieces(text, text.size(), reader, head_text, used);
  const ReadMessage cut = ReadInPieces(text, piece, again, head_again, used_again);
  // Of what isn't complete, the one may know already that it is broken, and the other not yet.
  Require(whole.head == cut.head && whole.done == cut.done);
  if (!whole.done) return;
  Require(whole.body == cut.body);
  Require(used == used_again && used <= text.size());
  const MessageHead& head = reader.head();
  std::string sent;
  if constexpr (kIsRequest) {
    if (!IsPlainTarget(head.target)) return;
    static const ReplicaUrl url = ParseReplicaUrl("http://replica:1/base").value();
    WriteRequestHead(head, {.url = &url, .body_bytes = whole.body.size(), .request_id = "id"},
                     sent);
    sent += whole.body;
  } else {
    WriteAnswerHead(head, {.framing = BodyFraming::kLength, .length = whole.body.size()}, sent);
  }
  CheckSecondReader<kIsRequest>(sent, whole, head);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::size_t piece = 1 + data[1] % 64;
  if (data[0] % 2 == 0) {
    Run<true>(text, piece);
  } else {
    Run<false>(text, piece);
  }
  return 0;
}
