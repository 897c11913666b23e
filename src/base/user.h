// base/user.h
//
// The users of this machine, by name and by number.
//
//   ASSIGN_OR_RETURN(const UserIds user, FindUser("tenant-a"));   // or "1004"
//   UserName(user.uid)                                            // "tenant-a"
//
// Thread safety: call from any thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "base/result.h"

namespace sublet {

struct UserIds {
  uid_t uid = 0;
  gid_t gid = 0;  // The user's primary group.

  friend bool operator==(const UserIds&, const UserIds&) = default;
};

// A name, else a number. A number that no user has is taken with the group of the same number, as
// containers use it. Fails with kNotFound, and with kUnavailable where the user database can't be
// asked.
Result<UserIds> FindUser(std::string_view name_or_number);

// The same for a group.
Result<gid_t> FindGroup(std::string_view name_or_number);

// The number itself, in digits, where it has no name.
std::string UserName(uid_t uid);

// Where the user is at home; "/" where that isn't known.
std::string HomeFolder(uid_t uid);

// Whom this process acts as (its effective ids).
UserIds CurrentUser();

}  // namespace sublet
