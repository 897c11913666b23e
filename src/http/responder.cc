#include <utility>

#include "http/http_connection.h"
#include "http/http_server.h"

namespace sublet {

Task<bool> Responder::Send(int status, std::string_view content_type, std::string body) {
  return connection_.Send(status, content_type, std::move(body));
}

Task<bool> Responder::Refuse(ErrorCode code, std::string message, std::string hint) {
  return Refuse(static_cast<const Error&>(Error{code, std::move(message), std::move(hint)}));
}

Task<bool> Responder::Refuse(const Error& error) {
  return connection_.Send(HttpStatusOf(error.code), kJsonType, ErrorBody(error));
}

Task<bool> Responder::Begin(int status, std::string_view content_type, WhenPeerGone when_gone) {
  return connection_.Begin(status, content_type, when_gone);
}

Task<bool> Responder::Write(std::string chunk) {
  return connection_.Write(std::move(chunk));
}

Task<bool> Responder::End() {
  return connection_.End();
}

bool Responder::PeerGone() const {
  return connection_.gone();
}

bool Responder::Begun() const {
  return connection_.begun();
}

}  // namespace sublet
