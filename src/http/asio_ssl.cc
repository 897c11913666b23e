// Asio's TLS, compiled from its headers once, as asio.cc does for the rest. Apart, because who
// needs no TLS shouldn't link OpenSSL.

#include <boost/asio/ssl/impl/src.hpp>
