// Package identity answers: who is this?
//
// An Identity is what a verified certificate says of its holder. ca writes it into certificates (SSH
// extension, X.509 extension), and everyone else reads it back through VerifySSHUser and VerifyX509, which
// return one only after every check has passed.
package identity

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"
	"unicode"
)

// Version is the newest identity format this code writes. Readers accept 1..Version and ignore fields they do
// not know.
const Version = 1

// MaxBytes bounds the JSON form inside a certificate.
const MaxBytes = 4 << 10

// Login is an operating-system account on a node, and so an SSH principal.
type Login string

// LoginID names one act of logging in; every certificate and session of that login carries it.
type LoginID string

// MachineID names a machine for its whole life, whatever its name becomes: 32 lower-case hex digits drawn by
// auth.
type MachineID string

// Serial is a certificate's serial number: drawn at random, positive, unique within the cluster.
type Serial uint64

// Kind is what sort of holder an identity speaks of. Append only.
type Kind string

const (
	User  Kind = "user"
	Node  Kind = "node"
	Proxy Kind = "proxy"
	Auth  Kind = "auth"
)

// Identity is who a certificate speaks of.
type Identity struct {
	V               int            `json:"v"`
	Kind            Kind           `json:"kind"`
	Cluster         string         `json:"cluster"`             // FQDN
	Name            string         `json:"name"`                // user: what people call them (an e-mail); node, proxy, auth: the unique name
	Connector       string         `json:"connector,omitempty"` // user: which provider vouched
	Subject         string         `json:"subject,omitempty"`   // user: the provider's stable id. A user is (Connector, Subject), never Name
	ID              MachineID      `json:"id,omitempty"`        // node, proxy, auth: the machine
	LoginID         LoginID        `json:"login_id,omitempty"`  // user: this act of logging in
	Roles           []string       `json:"roles,omitempty"`     // user
	Traits          Traits         `json:"traits,omitempty"`    // user: claims the connector declares immutable
	Labels          Labels         `json:"labels,omitempty"`    // node: what rules match on, certified by auth
	Factor          string         `json:"factor,omitempty"`    // user: the second factor that was shown: "totp", "recovery"
	LoginMethod     string         `json:"via,omitempty"`       // user: how the login came; empty is tsh on loopback
	SourceAddresses []netip.Prefix `json:"from,omitempty"`      // user: the only addresses the certificate is good from; none: any
	Expires         time.Time      `json:"expires"`             // equals the certificate's end; set from the certificate by the verifier
}

// Traits are a user's claim values by trait name.
type Traits map[string][]string

// Labels are a node's labels.
type Labels map[string]string

// User key: the pair that is a user.
type UserKey struct{ Connector, Subject string }

// UserKey returns the pair that is this user, whatever their name is today.
func (id Identity) UserKey() UserKey { return UserKey{id.Connector, id.Subject} }

// KeyID is the key id of the SSH certificate, made so that a plain sshd's own log names person and login:
// name@cluster/login-id.
func (id Identity) KeyID() string { return id.Name + "@" + id.Cluster + "/" + string(id.LoginID) }

// URI is the URI SAN of the X.509 certificate: threshold://cluster/user/connector/subject or
// threshold://cluster/node/id.
func (id Identity) URI() string {
	if id.Kind == User {
		return "threshold://" + id.Cluster + "/user/" + escape(id.Connector) + "/" + escape(id.Subject)
	}
	return "threshold://" + id.Cluster + "/" + string(id.Kind) + "/" + string(id.ID)
}

// String names the identity for logs and audit: "alice@example.com", or "node web-1".
func (id Identity) String() string {
	if id.Kind == User {
		return id.Name
	}
	return string(id.Kind) + " " + id.Name
}

// Encode gives the JSON that goes into certificates. It refuses an identity that Check refuses or that is
// larger than MaxBytes.
func (id Identity) Encode() ([]byte, error) {
	id.V = Version
	if err := id.Check(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(id)
	if err != nil {
		return nil, fmt.Errorf("encode identity: %w", err)
	}
	if len(b) > MaxBytes {
		return nil, fmt.Errorf(
			"identity of %s is %d bytes, more than %d: give the user fewer roles or traits",
			id.Name,
			len(b),
			MaxBytes,
		)
	}
	return b, nil
}

// decode reads the JSON form. Only the verifiers call it: bytes become an Identity after the certificate
// around them is verified.
func decode(b []byte) (Identity, error) {
	if len(b) > MaxBytes {
		return Identity{}, fmt.Errorf("identity extension is %d bytes, more than %d", len(b), MaxBytes)
	}
	var id Identity
	if err := json.Unmarshal(b, &id); err != nil {
		return Identity{}, fmt.Errorf("identity extension: %w", err)
	}
	if id.V < 1 || id.V > Version { // a newer one may carry a restriction that this code would overlook
		return Identity{}, fmt.Errorf(
			"identity extension is of version %d, this program reads 1 to %d: update it",
			id.V,
			Version,
		)
	}
	if err := id.Check(); err != nil {
		return Identity{}, err
	}
	return id, nil
}

var (
	hostNameRE = regexp.MustCompile(
		`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`,
	)
	loginRE     = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]*\$?$`)
	loginIDRE   = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,64}$`)
	numberRE    = regexp.MustCompile(`^[0-9.]*$`) // what resolvers read as an IPv4 address, whole or short
	machineIDRE = regexp.MustCompile(`^[0-9a-f]{32}$`)
	wordRE      = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?$`)
)

const (
	maxLogin  = 64
	maxWord   = 64
	maxString = 512
	maxDNS    = 253
)

// CheckLogin refuses anything but a plain account name: letters, digits, "_", ".", "-" (not first), at most
// 64 bytes. It is what keeps commas, spaces, control characters, wildcards and look-alikes out of principals.
func CheckLogin(l Login) error {
	if len(l) > maxLogin || !loginRE.MatchString(string(l)) {
		return fmt.Errorf(
			"login %.80q is not a plain account name (letters, digits, _ . -, at most %d)",
			string(l),
			maxLogin,
		)
	}
	return nil
}

// CheckMachineName refuses anything but a lower-case host name of at most 253 bytes (RFC 1123 section 2.1),
// and one that could be read as an address.
func CheckMachineName(name string) error {
	if len(name) > maxDNS || !hostNameRE.MatchString(name) || numberRE.MatchString(name) {
		return fmt.Errorf("node name %.80q is not a lower-case host name", name)
	}
	return nil
}

// CheckHost refuses anything but a host name that CheckMachineName allows, or the plain form of one host's IP
// address.
func CheckHost(name string) error {
	a, err := netip.ParseAddr(name)
	if err != nil {
		return CheckMachineName(name)
	}
	if a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.String() != name {
		return fmt.Errorf("%.80q is not the plain form of one host's address", name)
	}
	return nil
}

// CheckCluster refuses anything but a lower-case FQDN.
func CheckCluster(name string) error {
	if len(name) > maxDNS || !hostNameRE.MatchString(name) || numberRE.MatchString(name) {
		return fmt.Errorf("cluster name %.80q is not a lower-case domain name", name)
	}
	return nil
}

// CheckMachineID refuses anything but 32 lower-case hex digits.
func CheckMachineID(id MachineID) error {
	if !machineIDRE.MatchString(string(id)) {
		return fmt.Errorf("%.80q is not a machine id", string(id))
	}
	return nil
}

// CheckWord refuses anything but a resource, role, trait or label name: letters, digits, "_", ".", "-", at
// most 64 bytes.
func CheckWord(what, w string) error {
	if len(w) > maxWord || !wordRE.MatchString(w) {
		return fmt.Errorf(
			"%s %.80q is not a plain name (letters, digits, _ . -, at most %d)",
			what,
			w,
			maxWord,
		)
	}
	return nil
}

// CheckText refuses free text that is empty, longer than 512 bytes, not UTF-8, or carries control characters
// or such as turn the writing direction or have no width: what is read in a log or listing is what is there.
func CheckText(what, s string) error {
	if s == "" || len(s) > maxString ||
		strings.ContainsFunc(
			s,
			func(r rune) bool { return !unicode.IsGraphic(r) || r == unicode.ReplacementChar },
		) {
		return fmt.Errorf("%s %.80q is empty, too long, or has control or invisible characters", what, s)
	}
	return nil
}

// Check refuses an identity that no certificate may carry.
func (id Identity) Check() error {
	if err := CheckCluster(id.Cluster); err != nil {
		return err
	}
	switch id.Kind {
	case User:
		return id.checkUser()
	case Node, Proxy, Auth:
		return id.checkMachine()
	}
	return fmt.Errorf("identity of unknown kind %.80q", string(id.Kind))
}

func (id Identity) checkUser() error {
	for _, f := range []struct{ what, s string }{{"user name", id.Name}, {"subject", id.Subject}} {
		if err := CheckText(f.what, f.s); err != nil {
			return err
		}
	}
	if !loginIDRE.MatchString(string(id.LoginID)) {
		return fmt.Errorf("login id %.80q is not letters, digits, _ . -, at most 64", string(id.LoginID))
	}
	if err := CheckWord("connector", id.Connector); err != nil {
		return err
	}
	for _, f := range []struct{ what, s string }{{"factor", id.Factor}, {"via", id.LoginMethod}} {
		if f.s == "" {
			continue
		}
		if err := CheckWord(f.what, f.s); err != nil {
			return err
		}
	}
	if err := checkSources(id.SourceAddresses); err != nil {
		return err
	}
	if id.ID != "" || len(id.Labels) != 0 {
		return fmt.Errorf("identity of user %.80q carries a machine's fields", id.Name)
	}
	for _, r := range id.Roles {
		if err := CheckWord("role", r); err != nil {
			return err
		}
	}
	for k, vs := range id.Traits {
		if err := CheckWord("trait", k); err != nil {
			return err
		}
		for _, v := range vs {
			if err := CheckText("trait "+k, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (id Identity) checkMachine() error {
	if err := CheckMachineID(id.ID); err != nil {
		return err
	}
	if err := CheckMachineName(id.Name); err != nil {
		return err
	}
	if id.Connector != "" || id.Subject != "" || id.LoginID != "" || len(id.Roles) != 0 ||
		len(id.Traits) != 0 ||
		len(id.SourceAddresses) != 0 ||
		id.Factor != "" ||
		id.LoginMethod != "" {
		return fmt.Errorf("identity of %s %.80q carries a user's fields", id.Kind, id.Name)
	}
	return id.Labels.Check()
}

// Check refuses labels whose names are no plain words or whose values are no plain text.
func (l Labels) Check() error {
	for k, v := range l {
		if err := CheckWord("label", k); err != nil {
			return err
		}
		if err := CheckText("label "+k, v); err != nil {
			return err
		}
	}
	return nil
}

// escape keeps letters, digits and "-._~" and percent-encodes the rest (RFC 3986 section 2.3).
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}
