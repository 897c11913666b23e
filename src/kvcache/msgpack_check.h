// kvcache/msgpack_check.h
//
// Whether bytes are one whole MessagePack value, so that msgpuck's readers, which look at no end,
// may be let at them.
//
//   if (!IsMsgpack(bytes)) return Fail(ErrorCode::kInvalid, "no MessagePack");
//   const char* at = bytes.data();
//   if (mp_typeof(*at) == MP_ARRAY) count = mp_decode_array(&at);
//
// msgpuck has mp_check() for this, which adds the counts of arrays to an int: an array that claims
// 2^32-1 elements takes it past zero, and five bytes pass as a valid value. Here a count may be at
// most the number of bytes that follow, so that memory set aside for as many elements is bounded by
// the input.
//
// Thread safety: pure.
#pragma once

#include <string_view>

namespace sublet {

bool IsMsgpack(std::string_view bytes);

}  // namespace sublet
