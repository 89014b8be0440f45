package access

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// Bounds of what a role may write.
const (
	minLimit       = time.Second
	maxIdleTimeout = 24 * time.Hour
	maxMaxSession  = 7 * 24 * time.Hour
	maxMaxSessions = 1000
)

// Count is a number in a document that, once written, cannot be 0: whoever writes "max_sessions: 0" wants
// none, and would get them without bound.
type Count int

// UnmarshalJSON refuses 0.
func (c *Count) UnmarshalJSON(b []byte) error {
	var n int
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("0 is no limit: leave it out for none, or take the grant away to allow nothing")
	}
	*c = Count(n)
	return nil
}

// String writes "8h" rather than "8h0m0s".
func (d Duration) String() string {
	b, _ := d.MarshalText() // it cannot fail
	return string(b)
}

// Limit is one bound and the role that set it. The zero value bounds nothing.
type Limit[T any] struct {
	Value T
	Rule  string // "role ops, idle_timeout"; empty: there is no such limit
}

// Limits bound a person's sessions on every node.
type Limits struct {
	IdleTimeout        Limit[time.Duration]
	MaxSession         Limit[time.Duration]
	MaxSessions        Limit[int]
	EndWithCertificate Limit[bool]
}

// Limits are the strictest of what the person's roles say.
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

// keepStrictest keeps the smaller bound. One below zero, which Check refuses, bounds all the same: it allows
// nothing.
func keepStrictest[T ~int | ~int64](have *Limit[T], at T, role, option string) {
	if at != 0 && (have.Rule == "" || at < have.Value) {
		*have = Limit[T]{Value: at, Rule: optionRule(role, option)}
	}
}

func optionRule(role, option string) string { return "role " + role + ", " + option }

// LimitsSessions reports whether the role says anything about sessions: what a program that knows nothing of
// it would let go on.
func (o Options) LimitsSessions() bool {
	return o.IdleTimeout != 0 || o.MaxSession != 0 || o.MaxSessions != 0 || o.EndWithCertificate
}
