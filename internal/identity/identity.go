// Package identity answers: who is this?
//
// An Identity is what a verified certificate says of its holder. Package ca writes it into certificates (an
// extension in SSH and in X.509). Everybody else reads it through VerifySSHUser and VerifyX509, which return
// one only after every check has passed.
package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"github.com/threshold-access/threshold/internal/ascii"
	"github.com/threshold-access/threshold/internal/wire"
)

// Version is the newest identity format, which this code writes. Readers ignore fields that they do not know
// unless the identity calls them critical, and refuse newer versions (internal/wire). Version 1 was in no
// release: it lacks what locks match.
const Version = 2

// MaxBytes bounds an identity's JSON form inside a certificate.
const MaxBytes = 4 << 10

// Login is an operating-system account on a node, and so an SSH principal.
type Login string

// LoginID names one finished login attempt. It is in every certificate that was issued from that login, and
// in the audit events of its sessions.
type LoginID string

// MachineID names a machine for its whole life, whatever its name becomes: 32 lower-case hex digits that auth
// draws at random.
type MachineID string

// Serial is a certificate's serial number: drawn at random, positive, unique within the cluster.
type Serial uint64

// Kind is the kind of a certificate's holder. Append only.
type Kind string

const (
	User  Kind = "user"
	Node  Kind = "node"
	Proxy Kind = "proxy"
	Auth  Kind = "auth"
)

// Profile says what a user's certificate is for. A reader refuses one that it does not know, because a newer
// profile may be meant for less than its roles allow. Append only.
type Profile string

const (
	// UserProfile is the profile of a certificate from a login of a user with tsh.
	UserProfile Profile = "user"
	// WebProfile, BotProfile, SessionProfile and BreakGlassProfile are for logins in a browser, programs,
	// single sessions, and logins without the provider. No certificate has them yet.
	WebProfile        Profile = "web"
	BotProfile        Profile = "bot"
	SessionProfile    Profile = "session"
	BreakGlassProfile Profile = "break-glass"
)

// Identity is the holder of a certificate. A comment names the kinds that have a field; others leave it
// empty. Times in it have whole seconds.
type Identity struct {
	V           int           `json:"v"`                  // the format; Encode sets it
	Critical    wire.Critical `json:"critical,omitempty"` // fields that a reader must know
	Kind        Kind          `json:"kind"`
	Cluster     string        `json:"cluster"`              // FQDN
	Name        string        `json:"name"`                 // user: as an e-mail; machines: the unique name
	Connector   string        `json:"connector,omitempty"`  // user: whose provider identified them
	Subject     string        `json:"subject,omitempty"`    // user: the provider's stable id; see UserKey
	ID          MachineID     `json:"id,omitempty"`         // node, proxy, auth
	LoginID     LoginID       `json:"login_id,omitempty"`   // user
	Roles       []string      `json:"roles,omitempty"`      // user
	Traits      Traits        `json:"traits,omitempty"`     // user: claims declared immutable
	Labels      Labels        `json:"labels,omitempty"`     // node: what grants match on, set by auth
	Factor      string        `json:"factor,omitempty"`     // user: "totp" or "recovery"
	LoginMethod string        `json:"via,omitempty"`        // user: empty means tsh with a loopback listener
	Profile     Profile       `json:"profile,omitempty"`    // user
	Proxy       MachineID     `json:"proxy,omitempty"`      // user: the proxy that served the login
	AuthTime    time.Time     `json:"auth_time,omitzero"`   // user: when the provider identified them
	FactorTime  time.Time     `json:"factor_time,omitzero"` // user: when they proved the factor
	IssuedAt    time.Time     `json:"issued_at,omitzero"`   // all: when it was issued; ca sets it
	Region      string        `json:"region,omitempty"`     // machines: where it runs; user: of the proxy

	// SourceAddresses, of a user, are the only networks from which the certificate may be used. None: any.
	SourceAddresses []netip.Prefix `json:"from,omitempty"`
	// Expires is the end of the certificate, from which the verifiers set it.
	Expires time.Time `json:"expires,omitzero"`
}

// Traits are a user's claim values by trait name.
type Traits map[string][]string

// Labels are a machine's labels. Those that begin with SelfPrefix the machine gave itself, the others are
// from an administrator.
type Labels map[string]string

// UserKey is what identifies a user: the pair of connector and subject, never the name.
type UserKey struct{ Connector, Subject string }

// UserKey returns the key of this user, which stays the same when the name changes.
func (id Identity) UserKey() UserKey { return UserKey{id.Connector, id.Subject} }

// KeyID is the key id of the user's SSH certificate, name@cluster/login-id, so that the log of a plain sshd
// names the user and the login.
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

// Encode returns the JSON that goes into certificates. It refuses an identity that Check refuses or that is
// larger than MaxBytes.
func (id Identity) Encode() ([]byte, error) {
	id.V = Version
	id.Expires = time.Time{} // the certificate says it
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
			id.Name, len(b), MaxBytes,
		)
	}
	return b, nil
}

// decode decodes the JSON form of an identity and checks its fields. It verifies nothing: whoever calls it
// before the certificate around it is verified must not trust the result (see Roots.VerifyX509).
func decode(b []byte) (Identity, error) {
	if len(b) > MaxBytes {
		return Identity{}, fmt.Errorf("identity extension is %d bytes, more than %d", len(b), MaxBytes)
	}
	var id Identity
	if err := json.Unmarshal(b, &id); err != nil {
		return Identity{}, fmt.Errorf("identity extension: %w", err)
	}
	if id.V == 1 {
		return Identity{}, errFirstVersion
	}
	// A newer version or a critical field may be a restriction that this code would ignore.
	err := wire.Check("the identity in the certificate", id.V, Version, id.Critical, fields...)
	if err != nil {
		return Identity{}, err
	}
	if err := id.Check(); err != nil {
		return Identity{}, err
	}
	return id, nil
}

// errFirstVersion is for a certificate of a build before the first release.
var errFirstVersion = errors.New("the identity in the certificate is of version 1, which is too old: " +
	"log in again; a machine must join again")

// fields are the names of the fields that decode reads.
var fields = wire.Fields(Identity{})

var (
	lowerOrDigit  = ascii.Of("a-z0-9")
	letterOrDigit = ascii.Of("A-Za-z0-9")
	wordChar      = ascii.Of("A-Za-z0-9_.-")

	hostLabel    = ascii.Form{First: lowerOrDigit, Inner: ascii.Of("a-z0-9-"), Last: lowerOrDigit, Max: 63}
	digitsOrDots = ascii.Of("0-9.")
	accountName  = ascii.Form{First: ascii.Of("A-Za-z0-9_"), Inner: wordChar, Max: maxLogin}
	loginIDForm  = ascii.Form{First: wordChar, Inner: wordChar, Max: 64}
	randomIDForm = ascii.Form{First: ascii.Of("0-9a-f"), Inner: ascii.Of("0-9a-f"), Min: 32, Max: 32}
	wordForm     = ascii.Form{First: letterOrDigit, Inner: wordChar, Last: letterOrDigit, Max: maxWord}
)

const (
	maxLogin  = 64
	maxWord   = 64
	maxString = 512
	maxDNS    = 253
)

// CheckLogin returns an error unless l is a plain account name: letters, digits, "_", "." and "-" (not "." or
// "-" first), "$" at the end, at most 64 bytes. So a principal never has a comma, space, control character,
// wildcard or look-alike letter in it.
func CheckLogin(l Login) error {
	if len(l) > maxLogin || !accountName.Matches(strings.TrimSuffix(string(l), "$")) {
		return fmt.Errorf(
			"login %.80q is not a plain account name (letters, digits, _ . -, at most %d)",
			string(l), maxLogin,
		)
	}
	return nil
}

// CheckMachineName returns an error unless name is a lower-case host name of at most 253 bytes (RFC 1123
// section 2.1) that cannot be read as an IPv4 address.
func CheckMachineName(name string) error {
	if !isHostName(name) {
		return fmt.Errorf("machine name %.80q is not a lower-case host name", name)
	}
	return nil
}

// CheckLoginID returns an error unless id is 1 to 64 letters, digits, "_", "." and "-".
func CheckLoginID(id LoginID) error {
	if !loginIDForm.Matches(string(id)) {
		return fmt.Errorf("login id %.80q is not letters, digits, _ . -, at most 64", string(id))
	}
	return nil
}

// isHostName reports whether name is a lower-case host name that no resolver reads as an IPv4 address, whole
// or short.
func isHostName(name string) bool {
	if len(name) > maxDNS || digitsOrDots.All(name) {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if !hostLabel.Matches(label) {
			return false
		}
	}
	return true
}

// CheckHost returns an error unless name is a host name that CheckMachineName accepts, or an IP address of
// one host in its usual form, without a zone.
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

// CheckCluster returns an error unless name is a lower-case domain name.
func CheckCluster(name string) error {
	if !isHostName(name) {
		return fmt.Errorf("cluster name %.80q is not a lower-case domain name", name)
	}
	return nil
}

// CheckMachineID returns an error unless id is 32 lower-case hex digits.
func CheckMachineID(id MachineID) error {
	if !randomIDForm.Matches(string(id)) {
		return fmt.Errorf("%.80q is not a machine id", string(id))
	}
	return nil
}

// CheckWord returns an error unless w can be the name of a resource, role, trait or label: letters, digits,
// "_", ".", "-", at most 64 bytes, with a letter or digit at both ends. what says in the error what w names.
func CheckWord(what, w string) error {
	if !wordForm.Matches(w) {
		return fmt.Errorf(
			"%s %.80q is not a plain name (letters, digits, _ . -, at most %d)",
			what, w, maxWord,
		)
	}
	return nil
}

// CheckText returns an error if s, a free text, is empty, longer than 512 bytes or not UTF-8, or contains
// control characters, characters without width or ones that change the writing direction: logs and listings
// must show what is there. what says in the error what s is.
func CheckText(what, s string) error {
	isHidden := func(r rune) bool { return !unicode.IsGraphic(r) || r == unicode.ReplacementChar }
	if s == "" || len(s) > maxString || strings.ContainsFunc(s, isHidden) {
		return fmt.Errorf("%s %.80q is empty, too long, or has control or invisible characters", what, s)
	}
	return nil
}

// Check returns an error for an identity that must not be in a certificate: one of an unknown kind, with a
// malformed field, or with a field that its kind does not have.
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

// checkUser returns an error for the identity of a user in which a field is malformed, or is one that only
// machines have.
func (id Identity) checkUser() error {
	for _, field := range []struct{ what, s string }{{"user name", id.Name}, {"subject", id.Subject}} {
		if err := CheckText(field.what, field.s); err != nil {
			return err
		}
	}
	if err := CheckLoginID(id.LoginID); err != nil {
		return err
	}
	if err := CheckWord("connector", id.Connector); err != nil {
		return err
	}
	for _, optional := range []struct{ what, s string }{{"factor", id.Factor}, {"via", id.LoginMethod}} {
		if optional.s == "" {
			continue
		}
		if err := CheckWord(optional.what, optional.s); err != nil {
			return err
		}
	}
	if err := checkNetworks(id.SourceAddresses); err != nil {
		return err
	}
	if err := id.checkLogin(); err != nil {
		return err
	}
	if id.ID != "" || len(id.Labels) != 0 {
		return fmt.Errorf("identity of user %.80q has a machine's fields", id.Name)
	}
	for _, r := range id.Roles {
		if err := CheckWord("role", r); err != nil {
			return err
		}
	}
	for name, values := range id.Traits {
		if err := CheckWord("trait", name); err != nil {
			return err
		}
		for _, v := range values {
			if err := CheckText("trait "+name, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkLogin returns an error if what a user's identity says of its login is malformed, or if this program
// does not know the profile.
func (id Identity) checkLogin() error {
	switch id.Profile {
	case UserProfile, WebProfile, BotProfile, SessionProfile, BreakGlassProfile:
	default:
		return fmt.Errorf("identity of unknown profile %.80q", string(id.Profile))
	}
	if id.Proxy != "" {
		if err := CheckMachineID(id.Proxy); err != nil {
			return fmt.Errorf("proxy: %w", err)
		}
	}
	return id.checkRegion()
}

// checkRegion returns an error for a region that is no plain name.
func (id Identity) checkRegion() error {
	if id.Region == "" {
		return nil
	}
	return CheckWord("region", id.Region)
}

// checkMachine returns an error for the identity of a node, proxy or replica in which a field is malformed,
// or is one that only users have.
func (id Identity) checkMachine() error {
	if err := CheckMachineID(id.ID); err != nil {
		return err
	}
	if err := CheckMachineName(id.Name); err != nil {
		return err
	}
	hasUserFields := id.Connector != "" || id.Subject != "" || id.LoginID != "" || id.Factor != "" ||
		id.LoginMethod != "" || len(id.Roles) != 0 || len(id.Traits) != 0 || len(id.SourceAddresses) != 0 ||
		id.Profile != "" || id.Proxy != "" || !id.AuthTime.IsZero() || !id.FactorTime.IsZero()
	if hasUserFields {
		return fmt.Errorf("identity of %s %.80q has a user's fields", id.Kind, id.Name)
	}
	if err := id.checkRegion(); err != nil {
		return err
	}
	return id.Labels.Check()
}

// Check returns an error for a label whose name CheckWord refuses, or whose value CheckText refuses.
func (l Labels) Check() error {
	for name, value := range l {
		if err := CheckWord("label", name); err != nil {
			return err
		}
		if err := CheckText("label "+name, value); err != nil {
			return err
		}
	}
	return nil
}

// SelfPrefix is the prefix of the labels that a machine gives itself, and of no others. So whoever reads a
// role sees which of its grants a machine can bring upon itself.
const SelfPrefix = "self."

// CheckSelf returns an error unless a machine may give itself these labels: each is well-formed and begins
// with SelfPrefix.
func (l Labels) CheckSelf() error {
	for name := range l {
		if !strings.HasPrefix(name, SelfPrefix) {
			return fmt.Errorf("a machine gives itself only labels that begin with %[1]s: write %[1]s%.80[2]s",
				SelfPrefix, name)
		}
	}
	return l.Check()
}

// CheckGiven returns an error unless an administrator may give these labels to a machine: each is well-formed
// and does not begin with SelfPrefix.
func (l Labels) CheckGiven() error {
	for name := range l {
		if strings.HasPrefix(name, SelfPrefix) {
			return fmt.Errorf("only the machine itself can have the label %.80s: labels that begin with %s "+
				"are in its own configuration", name, SelfPrefix)
		}
	}
	return l.Check()
}

// Self returns those labels that the machine gave itself.
func (l Labels) Self() Labels {
	self := Labels{}
	for name, value := range l {
		if strings.HasPrefix(name, SelfPrefix) {
			self[name] = value
		}
	}
	return self
}

// escape percent-encodes every byte of s except letters, digits and "-._~", so that the result is one segment
// of a URI's path (RFC 3986 section 2.3).
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
