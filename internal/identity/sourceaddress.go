package identity

import (
	"fmt"
	"net"
	"net/netip"
)

// CheckSourceAddress refuses an address outside SourceAddresses; none there means any address. A verifier of
// X.509 user certificates calls it with the client's true address. VerifySSHUser does it itself.
func (id Identity) CheckSourceAddress(from net.Addr) error {
	return checkAllowedFrom(id.SourceAddresses, from)
}

// checkAllowedFrom refuses an address outside the networks. Where there are some, it refuses an unknown
// address too.
func checkAllowedFrom(pins []netip.Prefix, from net.Addr) error {
	if len(pins) == 0 {
		return nil
	}
	var text string
	if from != nil {
		text = from.String()
	}
	ap, err := netip.ParseAddrPort(text)
	if err != nil {
		return fmt.Errorf("certificate is pinned to %v and the client's address is not known", pins)
	}
	addr := ap.Addr().Unmap() // a dual-stack listener reports IPv4 clients as ::ffff:a.b.c.d
	for _, p := range pins {
		if p.Contains(addr) {
			return nil
		}
	}
	return fmt.Errorf("certificate is pinned to %v and was used from %s", pins, addr)
}

// checkNetworks refuses prefixes that are no plain networks: with host bits set, or IPv4 mapped into IPv6.
func checkNetworks(pins []netip.Prefix) error {
	for _, p := range pins {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			return fmt.Errorf("%q is not a network to pin to", p)
		}
	}
	return nil
}
