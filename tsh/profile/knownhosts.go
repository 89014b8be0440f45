package profile

import (
	"bytes"
	"fmt"
	"net"
	"strings"

	"golang.org/x/crypto/ssh"
)

// knownHosts writes the host authorities for OpenSSH. Their patterns are the narrowest that serve: every name
// in the cluster's domain, the proxy itself, and bare names without a dot or colon, as typed in "ssh -J proxy
// node". A host certificate names its host besides, so a wide pattern lets no host pass for another.
func (p *Profile) knownHosts() []byte {
	var b bytes.Buffer
	for _, patterns := range []string{strings.Join(append([]string{"*." + p.Cluster}, p.proxyNames()...), ","), "*,!*.*,!*:*"} {
		for _, key := range p.Authorities.HostSSH {
			fmt.Fprintf(&b, "@cert-authority %s %s", patterns, ssh.MarshalAuthorizedKey(key))
		}
	}
	return b.Bytes()
}

// proxyNames are the proxy's names as OpenSSH looks them up: the host, and [host]:port for a port other than
// 22.
func (p *Profile) proxyNames() []string {
	host, port, err := net.SplitHostPort(p.Proxy)
	if err != nil {
		return []string{p.Proxy}
	}
	if port == "22" {
		return []string{host}
	}
	return []string{"[" + host + "]:" + port}
}
