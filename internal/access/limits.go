package access

import (
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// Limit is the value of one option that holds for a user, and what set it. The zero value limits nothing.
type Limit[T any] struct {
	Value T
	// Rule is where it is set, as "role ops, idle_timeout", or "the default of cert_ttl"; empty when there is
	// no limit.
	Rule string
}

// Limits bound a user's certificates, and their sessions on each node. Each field is an option of Options; of
// RulesAge, which bounds a role and not a user, there is none.
type Limits struct {
	CertTTL            Limit[time.Duration]
	IdleTimeout        Limit[time.Duration]
	MaxSession         Limit[time.Duration]
	MaxSessions        Limit[int]
	EndWithCertificate Limit[bool]
}

// defaultLimits are the options that hold where no role of a user sets them.
var defaultLimits = Limits{
	CertTTL:            Limit[time.Duration]{DefaultCertTTL, defaultRule("cert_ttl")},
	EndWithCertificate: Limit[bool]{true, defaultRule("end_with_certificate")},
}

// LimitsOf returns the limits of a user: of each option the strictest value that any role of the user sets,
// whichever role allows what they do. A role that does not set an option has no influence on it, and if none
// sets it, its default holds. But of end_with_certificate a role that does not set it has the default: it is
// off only if each role turns it off.
func LimitsOf(p Policy, who identity.Identity) Limits {
	var limits Limits
	for _, name := range who.Roles {
		if role, known := p.Roles[name]; known {
			ofRole := role.Options.limits(name)
			ofRole.EndWithCertificate = orDefault(ofRole.EndWithCertificate, defaultLimits.EndWithCertificate)
			limits = limits.merge(ofRole)
		}
	}
	return limits.orDefaults()
}

// CertTTL is the lifetime of the user's certificates. A value that Check refuses, and that is stored
// nevertheless, is taken for the nearest one that it accepts.
func CertTTL(p Policy, who identity.Identity) time.Duration {
	return min(max(LimitsOf(p, who).CertTTL.Value, minCertTTL), MaxCertTTL)
}

// limits is what one role alone says of each option.
func (o Options) limits(role string) Limits {
	return Limits{
		CertTTL:            limitOf(asTime(o.CertTTL), role, "cert_ttl"),
		IdleTimeout:        limitOf(asTime(o.IdleTimeout), role, "idle_timeout"),
		MaxSession:         limitOf(asTime(o.MaxSession), role, "max_session"),
		MaxSessions:        limitOf(o.MaxSessions, role, "max_sessions"),
		EndWithCertificate: limitOf(o.EndWithCertificate, role, "end_with_certificate"),
	}
}

// merge returns the stricter value of each option. The order of its arguments does not matter, nor how they
// were merged before.
func (l Limits) merge(other Limits) Limits {
	return Limits{
		CertTTL:            strictest(l.CertTTL, other.CertTTL, shorter),
		IdleTimeout:        strictest(l.IdleTimeout, other.IdleTimeout, shorter),
		MaxSession:         strictest(l.MaxSession, other.MaxSession, shorter),
		MaxSessions:        strictest(l.MaxSessions, other.MaxSessions, fewer),
		EndWithCertificate: strictest(l.EndWithCertificate, other.EndWithCertificate, ends),
	}
}

// orDefaults returns the limits with the default in the place of each option that is not set.
func (l Limits) orDefaults() Limits {
	return Limits{
		CertTTL:            orDefault(l.CertTTL, defaultLimits.CertTTL),
		IdleTimeout:        orDefault(l.IdleTimeout, defaultLimits.IdleTimeout),
		MaxSession:         orDefault(l.MaxSession, defaultLimits.MaxSession),
		MaxSessions:        orDefault(l.MaxSessions, defaultLimits.MaxSessions),
		EndWithCertificate: orDefault(l.EndWithCertificate, defaultLimits.EndWithCertificate),
	}
}

// shorter, fewer and ends report whether a is stricter than b. A negative value, which Check refuses, is the
// strictest if it is stored nevertheless: it allows nothing, which is safe.
func shorter(a, b time.Duration) bool { return a < b }
func fewer(a, b int) bool             { return a < b }
func ends(a, b bool) bool             { return a && !b }

// strictest returns the stricter one of two limits. Of two that are equal it returns the one whose rule comes
// first by name, so that the result does not depend on the order.
func strictest[T any](a, b Limit[T], stricter func(a, b T) bool) Limit[T] {
	switch {
	case a.Rule == "":
		return b
	case b.Rule == "" || stricter(a.Value, b.Value):
		return a
	case stricter(b.Value, a.Value) || b.Rule < a.Rule:
		return b
	}
	return a
}

func orDefault[T any](l, byDefault Limit[T]) Limit[T] {
	if l.Rule == "" {
		return byDefault
	}
	return l
}

// limitOf is what a role says of one option.
func limitOf[T any](o Option[T], role, option string) Limit[T] {
	value, isSet := o.Get()
	if !isSet {
		return Limit[T]{}
	}
	return Limit[T]{value, optionRule(role, option)}
}

func asTime(o Option[Duration]) Option[time.Duration] {
	return Option[time.Duration]{time.Duration(o.value), o.isSet}
}

func defaultRule(option string) string { return "the default of " + option }
