package ca

import (
	"crypto"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/identity"
)

// Profile is a kind of certificate. Append only: the names are in issuance records.
type Profile string

const (
	User    Profile = "user"    // a person: SSH and X.509
	Host    Profile = "host"    // the SSH host certificate of a node or proxy
	Service Profile = "service" // X.509 of a node, proxy or auth replica
)

// Request asks for certificates. Everything in it was established by auth; nothing comes from a caller
// unchecked.
type Request struct {
	Profile       Profile
	Identity      identity.Identity // who; Expires and From are set by ca
	SSHKey        ssh.PublicKey     // nil: no SSH certificate
	X509Key       crypto.PublicKey  // nil: no X.509 certificate
	Logins        []identity.Login  // user: SSH principals. None: no SSH certificate
	Names         []string          // host: SSH host principals; service: DNS names and IP addresses of the SAN
	SourceAddress []netip.Prefix    // user: the addresses the certificates are good from; none: any
	Extensions    []string          // user: permit-pty and its kin; only known ones
	NotAfter      time.Time         // zero: no fixed end; else the end is not after it
	TTL           time.Duration     // zero: up to NotAfter if set, else the profile's default
}

// profileLimits is what a profile allows.
type profileLimits struct {
	kinds      []identity.Kind
	ssh, x509  bool
	defaultTTL time.Duration
	maxTTL     time.Duration // longer is refused, never shortened
}

var profiles = map[Profile]profileLimits{
	User: {
		kinds:      []identity.Kind{identity.User},
		ssh:        true,
		x509:       true,
		defaultTTL: 8 * time.Hour,
		maxTTL:     identity.MaxLifetime,
	},
	Host: {
		kinds:      []identity.Kind{identity.Node, identity.Proxy},
		ssh:        true,
		defaultTTL: 24 * time.Hour,
		maxTTL:     identity.MaxLifetime,
	},
	Service: {
		kinds:      []identity.Kind{identity.Node, identity.Proxy, identity.Auth},
		x509:       true,
		defaultTTL: 24 * time.Hour,
		maxTTL:     identity.MaxLifetime,
	},
}

// Limits on lists. OpenSSH reads at most 256 principals (SSHKEY_CERT_MAX_PRINCIPALS).
const (
	maxPrincipals = 256
	maxNames      = 64
	maxSources    = 64
)

// extensions that a user certificate may carry (OpenSSH PROTOCOL.certkeys), beside the identity.
var extensions = map[string]bool{
	"permit-pty": true, "permit-port-forwarding": true, "permit-agent-forwarding": true, "permit-X11-forwarding": true, "permit-user-rc": true,
}
