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

// Limits returns the strictest limits that the user's roles set.
func (p Policy) Limits(who identity.Identity) Limits {
	var l Limits
	for _, name := range who.Roles {
		o := p[name].Options
		keepStrictest(&l.IdleTimeout, time.Duration(o.IdleTimeout), name, "idle_timeout")
		keepStrictest(&l.MaxSession, time.Duration(o.MaxSession), name, "max_session")
		keepStrictest(&l.MaxSessions, int(o.MaxSessions), name, "max_sessions")
		if o.EndWithCertificate && l.EndWithCertificate.Rule == "" {
			l.EndWithCertificate = Limit[bool]{Value: true, Rule: optionRule(name, "end_with_certificate")}
		}
	}
	return l
}

// keepStrictest replaces have by the limit at if that is smaller. Check refuses limits below zero; one that
// is stored all the same counts, and so allows nothing.
func keepStrictest[T ~int | ~int64](have *Limit[T], at T, role, option string) {
	if at != 0 && (have.Rule == "" || at < have.Value) {
		*have = Limit[T]{Value: at, Rule: optionRule(role, option)}
	}
}

// optionRule names an option of a role as Decision.Rule names a grant.
func optionRule(role, option string) string { return "role " + role + ", " + option }

// LimitsSessions reports whether the role limits sessions. A program that does not know those options would
// not enforce them.
func (o Options) LimitsSessions() bool {
	return o.IdleTimeout != 0 || o.MaxSession != 0 || o.MaxSessions != 0 || o.EndWithCertificate
}
