package access

import (
	"encoding/json"
	"time"
)

// Options limit what certificates and sessions of the role's holders may do. A role sets an option or does
// not; docs/cli.md has the rule by which the options of several roles become the Limits of a user.
//
// Each option is a field that readers of the signed rules must know if a role sets it. To give an option a
// further kind of value, or another meaning, give it a new name: so a name is the version of an option.
type Options struct {
	// CertTTL is the longest lifetime of a holder's certificate; 1m to MaxCertTTL.
	CertTTL Option[Duration] `json:"cert_ttl,omitzero"`

	// The fields below limit sessions. Nodes enforce them by the current rules, also on running sessions.

	// IdleTimeout ends a connection whose user has typed nothing for this long; 1s to 24h.
	IdleTimeout Option[Duration] `json:"idle_timeout,omitzero"`
	// MaxSession is how long a connection may last, and with it every session inside; 1s to 168h.
	MaxSession Option[Duration] `json:"max_session,omitzero"`
	// MaxSessions is how many sessions a user may have at once on one node; 1 to 1000.
	MaxSessions Option[int] `json:"max_sessions,omitzero"`
	// EndWithCertificate ends a connection when the certificate that opened it expires. It does so unless
	// each role of the user says that it does not: here a role that says nothing says yes.
	EndWithCertificate Option[bool] `json:"end_with_certificate,omitzero"`

	// RulesAge is how old the rules may be for the role to allow anything; 1m to 168h. It is not a limit of
	// the user: it is about what this role allows, and what other roles allow goes on. The setting rules_age
	// bounds it for all roles.
	RulesAge Option[Duration] `json:"rules_age,omitzero"`
}

// Option is what a role says of one option: the value that it sets, or, as the zero value, nothing. That a
// role sets an option to false or to 0 is not the same as that it does not set it.
type Option[T any] struct {
	value T
	isSet bool
}

// Set is an option that is set to the value.
func Set[T any](value T) Option[T] { return Option[T]{value, true} }

// Get returns the value, and whether the option is set.
func (o Option[T]) Get() (value T, isSet bool) { return o.value, o.isSet }

// IsZero reports whether the option is not set. JSON then leaves it out.
func (o Option[T]) IsZero() bool { return !o.isSet }

// MarshalJSON writes the value, and null if the option is not set.
func (o Option[T]) MarshalJSON() ([]byte, error) {
	if !o.isSet {
		return []byte("null"), nil
	}
	return json.Marshal(o.value)
}

// UnmarshalJSON reads what MarshalJSON writes. It refuses a value that this program cannot read, and with it
// the role: the value may be a stricter one, of a later release.
func (o *Option[T]) UnmarshalJSON(b []byte) error {
	*o = Option[T]{}
	if string(b) == "null" {
		return nil
	}
	if err := json.Unmarshal(b, &o.value); err != nil {
		return err
	}
	o.isSet = true
	return nil
}

// Bounds of options.
const (
	// DefaultCertTTL is the lifetime of a user certificate when no role sets another, and MaxCertTTL the
	// longest that a role may set.
	DefaultCertTTL = 8 * time.Hour
	MaxCertTTL     = 24 * time.Hour
	minCertTTL     = time.Minute

	minLimit       = time.Second
	maxIdleTimeout = 24 * time.Hour
	maxMaxSession  = 7 * 24 * time.Hour
	maxMaxSessions = 1000
)

// check reports the options that are set to a value out of their range.
func (o Options) check(report func(path, format string, args ...any)) {
	for _, option := range []struct {
		key      string
		is       Option[Duration]
		min, max time.Duration
	}{
		{"cert_ttl", o.CertTTL, minCertTTL, MaxCertTTL},
		{"idle_timeout", o.IdleTimeout, minLimit, maxIdleTimeout},
		{"max_session", o.MaxSession, minLimit, maxMaxSession},
		{"rules_age", o.RulesAge, minRulesAge, maxRulesAge},
	} {
		value, isSet := option.is.Get()
		if d := time.Duration(value); isSet && (d < option.min || d > option.max) {
			report("options."+option.key, "%s is not between %s and %s%s",
				d, Duration(option.min), Duration(option.max), ifZero(d == 0))
		}
	}
	if n, isSet := o.MaxSessions.Get(); isSet && (n < 1 || n > maxMaxSessions) {
		report("options.max_sessions", "%d is not between 1 and %d%s", n, maxMaxSessions, ifZero(n == 0))
	}
}

// ifZero is the end of a message about an option that is 0: it may have been meant as no limit, or as nothing
// at all.
func ifZero(isZero bool) string {
	if !isZero {
		return ""
	}
	return ": leave it out for no limit, or remove the grant to allow nothing"
}

// String writes "8h" rather than "8h0m0s".
func (d Duration) String() string {
	b, _ := d.MarshalText() // it cannot fail
	return string(b)
}

// optionRule names an option of a role as Decision.Rule names a grant.
func optionRule(role, option string) string { return "role " + role + ", " + option }
