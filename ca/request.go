package ca

import (
	"crypto"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/identity"
)

// Profile is a kind of certificate. Names are only added, never changed: they are in issuance records.
type Profile string

const (
	User    Profile = "user"    // SSH and X.509 of a user
	Host    Profile = "host"    // the SSH host certificate of a node or proxy
	Service Profile = "service" // X.509 of a node, proxy or auth replica
)

// Request asks for certificates. auth has established everything in it; nothing comes from a caller
// unchecked.
type Request struct {
	Profile       Profile
	Identity      identity.Identity // of the subject; ca sets V, IssuedAt, Expires, SourceAddresses
	SSHKey        ssh.PublicKey     // nil means no SSH certificate
	X509Key       crypto.PublicKey  // nil means no X.509 certificate
	Logins        []identity.Login  // user: SSH principals; none means no SSH certificate
	Names         []string          // host: SSH principals; service: DNS names and IP addresses of the SAN
	SourceAddress []netip.Prefix    // user: networks from which the certificates are accepted; none means any
	Extensions    []string          // user: the known ones only, such as permit-pty
	NotAfter      time.Time         // the latest end; zero means none is set
	TTL           time.Duration     // lifetime; zero means until NotAfter if set, else the profile's default
}

// profileLimits is what a profile allows.
type profileLimits struct {
	kinds      []identity.Kind // who may have certificates of the profile
	ssh, x509  bool            // which certificates the profile has
	defaultTTL time.Duration   // lifetime when the request has neither TTL nor NotAfter
	maxTTL     time.Duration   // a longer lifetime is refused, never shortened
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

// extensions that a user certificate may have besides the identity (OpenSSH PROTOCOL.certkeys).
var extensions = map[string]bool{
	"permit-pty":              true,
	"permit-port-forwarding":  true,
	"permit-agent-forwarding": true,
	"permit-X11-forwarding":   true,
	"permit-user-rc":          true,
}
