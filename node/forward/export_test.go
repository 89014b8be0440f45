package forward

import "net/netip"

// AllowedAddress reports whether connections may be forwarded to the address.
func AllowedAddress(a netip.Addr) bool { return allowedAddress(a) }
