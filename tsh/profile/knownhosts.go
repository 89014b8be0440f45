package profile

import (
	"bytes"
	"fmt"
	"net"
	"strings"

	"golang.org/x/crypto/ssh"
)

// knownHosts returns the file known_hosts: it makes OpenSSH trust the host authorities of the cluster for
// hosts that match one of two lists of patterns. The first list is every name in the cluster's domain and the
// proxies themselves. The second is bare names, without a dot or colon, as typed in "ssh -J proxy node". The
// second is wide, but a host certificate also names its host, so no host can pass for another.
func (p *Profile) knownHosts() []byte {
	var b bytes.Buffer
	clusterNames := strings.Join(append([]string{"*." + p.Cluster}, p.proxyNames()...), ",")
	const bareNames = "*,!*.*,!*:*"
	for _, patterns := range []string{clusterNames, bareNames} {
		for _, key := range p.Authorities.HostSSH {
			fmt.Fprintf(&b, "@cert-authority %s %s", patterns, ssh.MarshalAuthorizedKey(key))
		}
	}
	return b.Bytes()
}

// proxyNames returns the names of the proxies as OpenSSH looks them up: the host for port 22, else
// [host]:port.
func (p *Profile) proxyNames() (names []string) {
	for _, proxy := range p.Proxies {
		name := proxy.Address
		if host, port, err := net.SplitHostPort(proxy.Address); err == nil {
			name = "[" + host + "]:" + port
			if port == "22" {
				name = host
			}
		}
		names = append(names, name)
	}
	return names
}
