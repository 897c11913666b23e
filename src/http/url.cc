// Boost.URL, compiled from its headers once, as asio.cc does for Asio.

#include <boost/url/src.hpp>
