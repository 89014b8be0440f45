package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/threshold-access/threshold/auth"
	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/daemon"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node"
	"github.com/threshold-access/threshold/proxy"
	"github.com/threshold-access/threshold/proxy/webcert"
)

// file is the server's configuration file.
type file struct {
	Kind    string `yaml:"kind"    config:"required"` // server
	Version string `yaml:"version" config:"required"` // v1
	Spec    spec   `yaml:"spec"    config:"required"`
}

// spec names the parts that this machine runs: those whose section is present.
type spec struct {
	// Data is the data folder of all parts. No other server may use it.
	Data string `yaml:"data"   config:"required"`
	// Log is the least level that is logged, and the format. Flags override it.
	Log daemon.Log `yaml:"log"`
	// Health is an address on loopback that answers /healthz and /readyz. Empty means none.
	Health string `yaml:"health"`
	// Drain is how long the sessions of each part may go on after SIGTERM. Zero means the setting drain; at
	// most 1 h.
	Drain time.Duration `yaml:"drain"`
	Auth  *authSpec     `yaml:"auth"`
	Proxy *proxySpec    `yaml:"proxy"`
	Node  *nodeSpec     `yaml:"node"`
}

type authSpec struct {
	// Listen is the address of the auth port. Empty means 127.0.0.1:3025, for a proxy on the same machine.
	Listen string `yaml:"listen"`
	// Replica is the name of this replica among the voters. Empty means "auth-1".
	Replica string `yaml:"replica"`
}

type proxySpec struct {
	// Listen is the address of the public port. Empty means :443.
	Listen string `yaml:"listen"`
	// Public lists the addresses that users type, host or host:port. At least one.
	Public []string `yaml:"public"              config:"required"`
	// Auth is the address of the auth port. Empty means the auth part of this server.
	Auth string `yaml:"auth"`
	// TokenFile holds the join token for the first start. A server with an auth part needs none.
	TokenFile string `yaml:"token_file"`
	// Name is the proxy's name in the cluster. Empty means this machine's host name.
	Name string `yaml:"name"`
	// CertFile and KeyFile are the public web certificate (PEM). Empty means one by the cluster's own
	// authority, which browsers do not trust by themselves.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// ACME obtains and renews that certificate (RFC 8555). It excludes CertFile.
	ACME *acmeSpec `yaml:"acme"`
	// Balancers are the networks of load balancers in front of this proxy, as 10.0.0.0/24. The client
	// addresses that they report are believed.
	Balancers []netip.Prefix `yaml:"balancers"`
	// ProxyProtocol says that each connection of a balancer begins with a PROXY header, version 1 or 2.
	ProxyProtocol bool `yaml:"proxy_protocol"`
	// Transport is how tsh, nodes and proxies should connect: "tls" to the port itself, or "websocket"
	// through balancers that terminate TLS. Empty means tls.
	Transport dial.Transport `yaml:"transport"`
	// WebSocketKeepAlive is the interval of pings on an idle WebSocket, because balancers cut idle ones. Zero
	// means 20 s; 1 s to 1 min.
	WebSocketKeepAlive time.Duration `yaml:"websocket_keepalive"`
	// PenaltyExempt are networks that get no penalty for garbage, refused certificates and stalled
	// connections.
	PenaltyExempt []netip.Prefix `yaml:"penalty_exempt"`
}

type acmeSpec struct {
	// Email is where the authority sends warnings. It may be empty.
	Email string `yaml:"email"`
	// Directory is the URL of the authority's directory, with https. Empty means Let's Encrypt.
	Directory string `yaml:"directory"`
	// CAFile holds the roots (PEM) that verify the directory's own TLS certificate. Empty means the system's.
	CAFile string `yaml:"ca_file"`
	// Hosts are the names to get certificates for, each one of Public. Empty means every host name there.
	Hosts []string `yaml:"hosts"`
}

type nodeSpec struct {
	// Proxies lists the public addresses of the cluster. Empty means the proxy part of this server.
	Proxies []string `yaml:"proxies"`
	// TokenFile holds the join token for the first start. A server with an auth part needs none.
	TokenFile string `yaml:"token_file"`
	// Name is the name that this node requests. Empty means this machine's host name.
	Name string `yaml:"name"`
	// Labels are those that this node gives itself. They begin with identity.SelfPrefix.
	Labels map[string]string `yaml:"labels"`
	// HTTPSProxy is the HTTP proxy through which this node reaches the cluster, and NoProxy lists what it
	// reaches directly. Where they are empty, HTTPS_PROXY and NO_PROXY of the environment count.
	HTTPSProxy string `yaml:"https_proxy"`
	NoProxy    string `yaml:"no_proxy"`
}

// Check implements config.Checker: it reports what the types cannot express.
func (f file) Check(report func(path, format string, args ...any)) {
	if f.Kind != "" && f.Kind != "server" {
		report("kind", "is %q; the configuration of a server has kind: server", f.Kind)
	}
	if f.Version != "" && f.Version != "v1" {
		report("version", "is %q; this program reads v1", f.Version)
	}
}

// Check implements config.Checker.
func (s spec) Check(report func(path, format string, args ...any)) {
	if s.Auth == nil && s.Proxy == nil && s.Node == nil {
		report("", "there is no part to run: add auth, proxy or node")
	}
	if s.Health != "" {
		if err := daemon.CheckHealthAddr(s.Health); err != nil {
			report("health", "%v", err)
		}
	}
	if s.Drain > maxDrain {
		report("drain", "is %s; it must be at most 1h", s.Drain)
	}
	if s.Auth != nil {
		s.Auth.check(report)
	}
	if s.Proxy != nil {
		s.Proxy.check(s.Auth != nil, report)
	}
	if s.Node != nil {
		s.Node.check(s.Proxy != nil, report)
	}
}

func (a authSpec) check(report func(path, format string, args ...any)) {
	checkListen("auth.listen", a.Listen, report)
	if a.Replica != "" && identity.CheckMachineName(a.Replica) != nil {
		report("auth.replica", "%q is not a lower-case host name", a.Replica)
	}
}

// checkListen reports an address to listen on that is not valid; empty is valid. It checks the form alone:
// the server finds out at its start whether the port is free.
func checkListen(path, addr string, report func(path, format string, args ...any)) {
	_, port, err := net.SplitHostPort(addr)
	_, portErr := strconv.ParseUint(port, 10, 16)
	if valid := err == nil && portErr == nil; addr != "" && !valid {
		report(path,
			"%q is not an address to listen on: write host:port, or :port for all addresses of this machine",
			addr)
	}
}

// check reports what is wrong in the section of the proxy. besideAuth says that the same server runs auth,
// whose address then is the default.
func (p proxySpec) check(besideAuth bool, report func(path, format string, args ...any)) {
	checkListen("proxy.listen", p.Listen, report)
	if len(p.Public) == 0 {
		report("proxy", "needs public, the addresses that users type")
	}
	if p.Name != "" && identity.CheckMachineName(p.Name) != nil {
		report("proxy.name", "%q is not a lower-case host name", p.Name)
	}
	if _, port, err := net.SplitHostPort(p.Auth); p.Auth != "" && (err != nil || port == "") {
		report("proxy.auth", "%q is not an address: write host:port, as auth.internal:3025", p.Auth)
	}
	if (p.CertFile == "") != (p.KeyFile == "") {
		report("proxy", "needs both cert_file and key_file, or neither")
	}
	if p.ACME != nil {
		p.ACME.check(p, report)
	}
	if p.Auth == "" && !besideAuth {
		report("proxy", "needs auth, the address of an auth port, because this server runs no auth")
	}
	if !slices.Contains([]dial.Transport{"", dial.TLS, dial.WebSocket}, p.Transport) {
		report("proxy.transport", "is %q; it must be %s or %s", p.Transport, dial.TLS, dial.WebSocket)
	}
	if every := p.WebSocketKeepAlive; every != 0 && (every < time.Second || every > time.Minute) {
		report("proxy.websocket_keepalive", "is %s; it must be between 1s and 1m", every)
	}
	if p.ProxyProtocol && len(p.Balancers) == 0 {
		report("proxy.proxy_protocol", "needs balancers, the networks that send PROXY headers")
	}
	for i, addr := range p.Public {
		if _, err := withPort(addr); err != nil {
			report(fmt.Sprintf("proxy.public[%d]", i), "%v", err)
		}
	}
}

// check reports what is wrong in the section of ACME, which is a part of p.
func (a acmeSpec) check(p proxySpec, report func(path, format string, args ...any)) {
	if p.CertFile != "" {
		report("proxy.acme", "excludes cert_file: leave out one of them")
	}
	u, err := url.Parse(a.Directory)
	isHTTPS := err == nil && u.Scheme == "https" && u.Host != ""
	if a.Directory != "" && !isHTTPS {
		report("proxy.acme.directory", "%q is not an https:// URL", a.Directory)
	}
	public := p.hostNames()
	if len(public) == 0 {
		report("proxy.acme",
			"cannot be used: proxy.public has no host name to get a certificate for, only IP addresses")
	}
	for i, host := range a.Hosts {
		if !slices.Contains(public, strings.ToLower(host)) {
			report(fmt.Sprintf("proxy.acme.hosts[%d]", i), "%q is not a host name of proxy.public", host)
		}
	}
}

// config returns the server's configuration with everything that the file says. The caller adds Version, Log
// and the bootstrap file.
func (s spec) config() Config {
	cfg := Config{Dir: s.Data, Drain: s.Drain}
	if s.Auth != nil {
		cfg.Auth = &Auth{Listen: s.Auth.Listen, Config: auth.Config{ReplicaID: s.Auth.Replica}}
	}
	if s.Proxy != nil {
		cfg.Proxy = &Proxy{Listen: s.Proxy.Listen, TokenFile: s.Proxy.TokenFile, Config: s.Proxy.config()}
	}
	if s.Node != nil {
		cfg.Node = &Node{TokenFile: s.Node.TokenFile, Config: s.Node.config()}
	}
	return cfg
}

// config returns the proxy's configuration with everything that its section says.
func (p proxySpec) config() proxy.Config {
	return proxy.Config{
		Public:        addressesWithPort(p.Public),
		AuthAddr:      p.Auth,
		Name:          p.Name,
		CertFile:      p.CertFile,
		KeyFile:       p.KeyFile,
		ACME:          p.acme(),
		Balancers:     p.Balancers,
		ProxyProtocol: p.ProxyProtocol,
		PenaltyExempt: p.PenaltyExempt,
		Transport:     p.Transport,
		KeepAlive:     p.WebSocketKeepAlive,
	}
}

// config returns the node's configuration with everything that its section and the environment say.
func (n nodeSpec) config() node.Config {
	outbound := egress.Config{HTTPSProxy: n.HTTPSProxy, NoProxy: n.NoProxy}
	return node.Config{
		Proxies: addressesWithPort(n.Proxies),
		Name:    n.Name,
		Labels:  n.Labels,
		Egress:  outbound.WithDefaults(egress.ConfigFromEnv(os.Getenv)),
	}
}

// acme returns the section of ACME as the proxy wants it, or nil if there is none. Without a list of hosts,
// the certificates are for every host name in Public.
func (p proxySpec) acme() *webcert.ACME {
	if p.ACME == nil {
		return nil
	}
	hosts := p.hostNames()
	if len(p.ACME.Hosts) > 0 {
		hosts = nil
		for _, h := range p.ACME.Hosts {
			hosts = append(hosts, strings.ToLower(h))
		}
	}
	return &webcert.ACME{
		Email:     p.ACME.Email,
		Directory: p.ACME.Directory,
		CAFile:    p.ACME.CAFile,
		Hosts:     hosts,
	}
}

// hostNames returns, in lower case, those hosts of Public for which an authority gives certificates: names
// with a dot, not IP addresses.
func (p proxySpec) hostNames() (names []string) {
	for _, addr := range p.Public {
		addr, _ = withPort(addr) // without an error: check reports it
		host, _, _ := net.SplitHostPort(addr)
		_, err := netip.ParseAddr(host)
		if isName := err != nil; isName && strings.Contains(host, ".") {
			names = append(names, strings.ToLower(host))
		}
	}
	return names
}

// check reports what is wrong in the section of the node. besideProxy says that the same server runs a proxy,
// whose address then is the default.
func (n nodeSpec) check(besideProxy bool, report func(path, format string, args ...any)) {
	if n.Name != "" && identity.CheckMachineName(n.Name) != nil {
		report("node.name", "%q is not a lower-case host name", n.Name)
	}
	if _, err := egress.New(egress.Config{HTTPSProxy: n.HTTPSProxy}); err != nil {
		report("node.https_proxy", "%s", fault.Message(err))
	}
	if len(n.Proxies) == 0 && !besideProxy {
		report("node", "needs proxies, the cluster's public address, because this server runs no proxy")
	}
	for i, addr := range n.Proxies {
		if _, err := withPort(addr); err != nil {
			report(fmt.Sprintf("node.proxies[%d]", i), "%v", err)
		}
	}
	if err := identity.Labels(n.Labels).CheckSelf(); err != nil {
		report("node.labels", "%v", err)
	}
}

const (
	httpsPort = "443"
	// maxDrain bounds how long sessions may go on after SIGTERM.
	maxDrain = time.Hour
)

// parts lists the parts that run, for messages.
func (s spec) parts() string {
	var out []string
	for _, p := range []struct {
		name string
		runs bool
	}{{"auth", s.Auth != nil}, {"proxy", s.Proxy != nil}, {"node", s.Node != nil}} {
		if p.runs {
			out = append(out, p.name)
		}
	}
	return strings.Join(out, ", ")
}

// withPort returns addr, which is host or host:port, with the HTTPS port added if it has none. The error says
// that it is neither.
func withPort(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	hasPort := err == nil
	_, portErr := strconv.ParseUint(port, 10, 16)
	if hasPort && portErr == nil && host != "" {
		return addr, nil
	}
	if addr == "" || strings.ContainsAny(addr, " /") || hasPort {
		return "", fmt.Errorf("%q is not an address: write host or host:port", addr)
	}
	return net.JoinHostPort(strings.Trim(addr, "[]"), httpsPort), nil
}

// addressesWithPort is withPort for a list of addresses. They are valid: reading the file has checked them.
func addressesWithPort(addrs []string) (out []string) {
	for _, addr := range addrs {
		addr, _ = withPort(addr)
		out = append(out, addr)
	}
	return out
}

// readFile reads a file that the user has named. The error is a fault of kind NotFound or Invalid.
func readFile(name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, serverConfigUnknown.Wrap(err, "threshold start", fault.Args{"file": name})
	}
	return b, serverConfigUnreadable.Wrap(err, "threshold start", fault.Args{"file": name})
}

// readConfig reads and checks a configuration file. The error names every mistake in it.
func readConfig(name string) (spec, error) {
	b, err := readFile(name)
	if err != nil {
		return spec{}, err
	}
	var f file
	if err := config.Decode(name, b, &f); err != nil {
		return spec{}, err
	}
	return f.Spec, nil
}

// readToken reads a join token from a file, or returns "" for an empty name. A token is in a file because
// every account of the machine can read command lines in the list of processes.
func readToken(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	b, err := readFile(name)
	return strings.TrimSpace(string(b)), err
}
