package forward

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/threshold-access/threshold/internal/fault"
)

// maxAddresses is how many addresses of a name are tried.
const maxAddresses = 8

// deniedPrefixes are the addresses to which nothing is forwarded: link-local addresses, which mean something
// else on every machine, and the metadata services of clouds. Those hand out the machine's own credentials to
// any process on it.
var deniedPrefixes = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),         // link-local (RFC 3927); AWS, Azure, Google and others
	netip.MustParsePrefix("fe80::/10"),              // link-local (RFC 4291)
	netip.MustParsePrefix("fd00:ec2::/32"),          // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),       // Google
	netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), // Oracle
	netip.MustParsePrefix("fd00:42::42/128"),        // Scaleway
	netip.MustParsePrefix("168.63.129.16/32"),       // Azure's platform
	netip.MustParsePrefix("100.100.100.200/32"),     // Alibaba
}

// embeddedIPv4 are the blocks of IPv6 addresses that contain an IPv4 address, to which a translator or a
// tunnel sends on what it gets. The IPv4 address is at the offset, in bytes.
var embeddedIPv4 = []struct {
	block  netip.Prefix
	offset int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},   // RFC 6052
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12}, // RFC 8215, in its usual form
	{netip.MustParsePrefix("::/96"), 12},          // RFC 4291, IPv4-compatible
	{netip.MustParsePrefix("2002::/16"), 2},       // RFC 3056, 6to4
}

// allowedAddress reports whether connections may be forwarded to the address: it is not in deniedPrefixes,
// and neither is an IPv4 address that it contains.
func allowedAddress(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		raw := a.As16()
		for _, embedded := range embeddedIPv4 {
			inner := netip.AddrFrom4([4]byte(raw[embedded.offset : embedded.offset+4]))
			if embedded.block.Contains(a) && !allowedAddress(inner) {
				return false
			}
		}
	}
	return !slices.ContainsFunc(deniedPrefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// resolveAllowed resolves a host, a name or an address, and returns those of its addresses that are allowed,
// at most maxAddresses. The caller must dial these addresses and not the name: a second lookup could return
// another address, which was not checked. The error is a fault: Unavailable if the lookup fails, NotFound if
// there is no address, Denied if none of the addresses is allowed.
func (f *Forwarder) resolveAllowed(ctx context.Context, host string) ([]netip.Addr, error) {
	var found []netip.Addr
	if addr, err := netip.ParseAddr(host); err == nil {
		found = []netip.Addr{addr}
	} else {
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		if found, err = f.cfg.Resolve(ctx, host); err != nil {
			return nil, forwardHostUnreachable.Wrap(err, "node", fault.Args{
				"host": host,
				"why":  fault.DescribeNetwork(err),
			})
		}
	}
	var allowed []netip.Addr
	for _, addr := range found {
		if allowedAddress(addr) && len(allowed) < maxAddresses {
			allowed = append(allowed, addr.Unmap().WithZone(""))
		}
	}
	if len(allowed) == 0 && len(found) > 0 {
		return nil, forwardHostForbidden.New("node", fault.Args{"host": host})
	}
	if len(allowed) == 0 {
		return nil, forwardHostUnknown.New("node", fault.Args{"host": host})
	}
	return allowed, nil
}
