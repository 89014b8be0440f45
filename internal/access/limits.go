package access

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// Bounds of the limits in a role.
const (
	minLimit       = time.Second
	maxIdleTimeout = 24 * time.Hour
	maxMaxSession  = 7 * 24 * time.Hour
	maxMaxSessions = 1000
)

// Count is a number in a document that cannot be 0 where it is written. An administrator who writes
// "max_sessions: 0" wants no sessions, but zero in Options means that there is no limit.
type Count int

// UnmarshalJSON refuses 0.
func (c *Count) UnmarshalJSON(b []byte) error {
	var n int
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("0 is not allowed: leave it out for no limit, or remove the grant to allow nothing")
	}
	*c = Count(n)
	return nil
}

// String writes "8h" rather than "8h0m0s".
func (d Duration) String() string {
	b, _ := d.MarshalText() // it cannot fail
	return string(b)
}

// Limit is one limit and the role that set it. The zero value limits nothing.
type Limit[T any] struct {
	Value T
	Rule  string // where it is set, as "role ops, idle_timeout"; empty when there is no limit
}

// Limits bound a user's sessions on each node.
type Limits struct {
	IdleTimeout        Limit[time.Duration]
	MaxSession         Limit[time.Duration]
	MaxSessions        Limit[int]
	EndWithCertificate Limit[bool]
}

// LimitsOf returns the limits on the user's sessions: of each limit the strictest that any role of the user
// sets, with the role that sets it.
func LimitsOf(p Policy, who identity.Identity) Limits {
	var limits Limits
	for _, role := range who.Roles {
		options := p.Roles[role].Options
		keepStrictest(&limits.IdleTimeout, time.Duration(options.IdleTimeout), role, "idle_timeout")
		keepStrictest(&limits.MaxSession, time.Duration(options.MaxSession), role, "max_session")
		keepStrictest(&limits.MaxSessions, int(options.MaxSessions), role, "max_sessions")
		if options.EndWithCertificate && limits.EndWithCertificate.Rule == "" {
			rule := optionRule(role, "end_with_certificate")
			limits.EndWithCertificate = Limit[bool]{Value: true, Rule: rule}
		}
	}
	return limits
}

// keepStrictest replaces strictest by value, which the role's option sets, if value is smaller. Zero means
// that the option sets no limit. A negative value, which Check refuses, counts if it is stored nevertheless:
// it allows nothing, which is safe.
func keepStrictest[T ~int | ~int64](strictest *Limit[T], value T, role, option string) {
	if value != 0 && (strictest.Rule == "" || value < strictest.Value) {
		*strictest = Limit[T]{Value: value, Rule: optionRule(role, option)}
	}
}

// optionRule names an option of a role as Decision.Rule names a grant.
func optionRule(role, option string) string { return "role " + role + ", " + option }
