package profile

import (
	"bytes"
	"fmt"
	"net"
	"strings"

	"golang.org/x/crypto/ssh"
)

// knownHosts returns the host authorities in OpenSSH's format. The patterns are as narrow as possible: every
// name in the cluster's domain, the proxy itself, and bare names without a dot or colon, as typed in "ssh -J
// proxy node". A host certificate also names its host, so a wide pattern does not let one host pass for
// another.
func (p *Profile) knownHosts() []byte {
	var b bytes.Buffer
	cluster := strings.Join(append([]string{"*." + p.Cluster}, p.proxyNames()...), ",")
	for _, patterns := range []string{cluster, "*,!*.*,!*:*"} {
		for _, key := range p.Authorities.HostSSH {
			fmt.Fprintf(&b, "@cert-authority %s %s", patterns, ssh.MarshalAuthorizedKey(key))
		}
	}
	return b.Bytes()
}

// proxyNames returns the proxy's name as OpenSSH looks it up: the host for port 22, else [host]:port.
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
