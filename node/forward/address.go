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

// deniedPrefixes are the addresses that nothing is forwarded to: link-local ones, which mean something else
// on every machine, and where clouds keep their metadata services. Those hand the machine's own credentials
// to whoever comes from it.
var deniedPrefixes = []netip.Prefix{
	netip.MustParsePrefix(
		"169.254.0.0/16",
	), // link-local (RFC 3927), with the metadata services of most clouds
	netip.MustParsePrefix("fe80::/10"),              // link-local (RFC 4291)
	netip.MustParsePrefix("fd00:ec2::/32"),          // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),       // Google
	netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), // Oracle
	netip.MustParsePrefix("fd00:42::42/128"),        // Scaleway
	netip.MustParsePrefix("168.63.129.16/32"),       // Azure's platform
	netip.MustParsePrefix("100.100.100.200/32"),     // Alibaba
}

// embeddedIPv4 are the blocks of IPv6 addresses that a translator or tunnel turns into the IPv4 address they
// hold at the offset.
var embeddedIPv4 = []struct {
	block  netip.Prefix
	offset int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},   // RFC 6052
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12}, // RFC 8215, in its usual form
	{netip.MustParsePrefix("::/96"), 12},          // RFC 4291, IPv4-compatible
	{netip.MustParsePrefix("2002::/16"), 2},       // RFC 3056, 6to4
}

// allowedAddress reports whether something may be forwarded to the address.
func allowedAddress(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		raw := a.As16()
		for _, c := range embeddedIPv4 {
			inner := netip.AddrFrom4([4]byte(raw[c.offset : c.offset+4]))
			if c.block.Contains(a) && !allowedAddress(inner) {
				return false
			}
		}
	}
	return !slices.ContainsFunc(deniedPrefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// resolveAllowed finds out, once, where a host is, and leaves out what may not be reached. What it returns is
// dialled as it is: were a name asked for again, its owner could answer with another address.
func (f *Forwarder) resolveAllowed(ctx context.Context, host string) ([]netip.Addr, error) {
	var found []netip.Addr
	if a, err := netip.ParseAddr(host); err == nil {
		found = []netip.Addr{a}
	} else {
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		if found, err = f.cfg.Resolve(ctx, host); err != nil {
			return nil, fault.Wrap(err, fault.Unavailable, "node", "from this node, "+host+" cannot be reached: "+fault.DescribeNetwork(err), "correct the name, or use an address")
		}
	}
	var good []netip.Addr
	for _, a := range found {
		if allowedAddress(a) && len(good) < maxAddresses {
			good = append(good, a.Unmap().WithZone(""))
		}
	}
	if len(good) == 0 && len(found) > 0 {
		return nil, fault.New(
			fault.Denied,
			"node",
			host+" is a link-local or metadata address, which this node forwards nothing to",
			"use another address of that host",
		)
	}
	if len(good) == 0 {
		return nil, fault.New(
			fault.NotFound,
			"node",
			"from this node, "+host+" has no address",
			"correct the name, or use an address",
		)
	}
	return good, nil
}
