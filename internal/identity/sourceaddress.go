package identity

import (
	"fmt"
	"net"
	"net/netip"
)

// CheckSourceAddress returns an error if from is outside the networks in SourceAddresses. If there are none,
// every address is allowed. VerifyX509 does not know the client's address, so whoever accepts a user by an
// X.509 certificate calls this afterwards. VerifySSHUser does the same check itself.
func (id Identity) CheckSourceAddress(from net.Addr) error {
	return checkAllowedFrom(id.SourceAddresses, from)
}

// checkAllowedFrom returns an error if from is in none of the allowed networks, or not known (nil, or without
// an IP address). If allowed is empty, every address is allowed, also an unknown one.
func checkAllowedFrom(allowed []netip.Prefix, from net.Addr) error {
	if len(allowed) == 0 {
		return nil
	}
	var text string
	if from != nil {
		text = from.String()
	}
	addrPort, err := netip.ParseAddrPort(text)
	if err != nil {
		return fmt.Errorf("certificate is pinned to %v and the client's address is not known", allowed)
	}
	addr := addrPort.Addr().Unmap() // a dual-stack listener reports IPv4 clients as ::ffff:a.b.c.d
	for _, network := range allowed {
		if network.Contains(addr) {
			return nil
		}
	}
	return fmt.Errorf("certificate is pinned to %v and was used from %s", allowed, addr)
}

// checkNetworks returns an error for a prefix that would not match as its author expects: one with host bits
// set, or an IPv4 network in IPv6 form.
func checkNetworks(networks []netip.Prefix) error {
	for _, p := range networks {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			return fmt.Errorf("%q is not a network to pin to", p)
		}
	}
	return nil
}
