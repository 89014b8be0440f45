package oidc

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// maxValues bounds how many values of one claim become a trait or are matched against rules.
const maxValues = 1000

// VerifiedUser is a user whom a provider has authenticated a moment ago. Only Finish makes one; the zero
// value is nobody.
type VerifiedUser struct {
	connector, subject, name string
	roles                    []string
	traits                   identity.Traits
	revision                 uint64
}

// Revision is the revision of the connector whose rules gave the roles and traits.
func (v VerifiedUser) Revision() uint64 { return v.revision }

// Connector and Subject together identify the user.
func (v VerifiedUser) Connector() string { return v.connector }

// Subject is the provider's stable id of the user.
func (v VerifiedUser) Subject() string { return v.subject }

// Name is what the provider calls the user today. It may change, so it is never a key.
func (v VerifiedUser) Name() string { return v.name }

// Roles are those that the connector's rules give, sorted.
func (v VerifiedUser) Roles() []string { return slices.Clone(v.roles) }

// Traits are the claims that the connector declares immutable.
func (v VerifiedUser) Traits() identity.Traits { return v.traits }

// mapClaims turns the claims of a verified token into a user, by the rules of the connector. It refuses a
// claim that cannot be shown, logged or certified, because only here can the error say which claim is wrong.
// The errors are fault Invalid, and Denied for an unverified e-mail address.
func (p *provider) mapClaims(verified claims) (VerifiedUser, error) {
	user := VerifiedUser{connector: p.name, revision: p.revision}
	var err error
	if user.subject, err = p.textClaim(verified, "sub"); err != nil {
		return VerifiedUser{}, err
	}
	if user.name, err = p.displayName(verified); err != nil {
		return VerifiedUser{}, err
	}
	for _, rule := range p.spec.Roles {
		matches := func(value string) bool { return access.Glob(rule.Value, value) }
		if slices.ContainsFunc(verified.values(rule.Claim), matches) {
			user.roles = append(user.roles, rule.Roles...)
		}
	}
	slices.Sort(user.roles)
	user.roles = slices.Compact(user.roles)
	if user.traits, err = p.immutableTraits(verified); err != nil {
		return VerifiedUser{}, err
	}
	return user, nil
}

// textClaim returns a claim that must be text which can be shown and certified.
func (p *provider) textClaim(verified claims, claim string) (string, error) {
	s, _ := verified.find(claim).(string)
	if err := identity.CheckText(claim, s); err != nil {
		return "", p.unusableClaimFault(err, claim)
	}
	return s, nil
}

// unusableClaimFault is the error for a claim that is missing or fails identity.CheckText.
func (p *provider) unusableClaimFault(err error, claim string) error {
	return providerClaimUnusable.Wrap(err, opFinish, fault.Args{
		"provider":  p.display(),
		"claim":     claim,
		"connector": p.name,
	})
}

// displayName returns the name of the user. If it is an e-mail address, the provider must have verified it:
// otherwise users could name themselves after others.
func (p *provider) displayName(verified claims) (string, error) {
	claim := p.spec.nameClaim()
	name, err := p.textClaim(verified, claim)
	if err == nil && claim == emailClaim && !verified.emailVerified() {
		return "", providerEmailUnverified.New(opFinish, fault.Args{"provider": p.display(), "email": name})
	}
	return name, err
}

// immutableTraits returns the traits of the user: only those that the connector declares immutable, because
// users could change the others themselves. A claim that is missing or empty gives no trait; without any
// trait the result is nil. A value that cannot be certified ends the login instead of being left out, because
// a role may deny something by it.
func (p *provider) immutableTraits(verified claims) (identity.Traits, error) {
	traits := identity.Traits{}
	for _, rule := range p.spec.Traits {
		if !rule.Immutable {
			continue
		}
		for _, value := range verified.values(rule.Claim) {
			if value == "" {
				continue
			}
			if err := identity.CheckText(rule.Trait, value); err != nil {
				return nil, p.unusableClaimFault(err, rule.Claim)
			}
			traits[rule.Trait] = append(traits[rule.Trait], value)
		}
	}
	if len(traits) == 0 {
		return nil, nil
	}
	return traits, nil
}

// find returns the claim of that name. If there is none and the name has dots, it follows them into objects:
// realm_access.roles is the field roles of the claim realm_access. It returns nil if it finds nothing.
func (c claims) find(name string) any {
	if v, ok := c[name]; ok {
		return v
	}
	head, rest, dotted := strings.Cut(name, ".")
	inner, ok := c[head].(map[string]any)
	if !dotted || !ok {
		return nil
	}
	return claims(inner).find(rest)
}

// values returns the values of a claim as text: each element of a list, or the one value. Objects and null
// have no value, and beyond maxValues the rest of a list is left out. An e-mail address that is not verified
// has no value either, because a user could have entered it.
func (c claims) values(name string) []string {
	if name == emailClaim && !c.emailVerified() {
		return nil
	}
	list, ok := c.find(name).([]any)
	if !ok {
		list = []any{c.find(name)}
	}
	var out []string
	for _, v := range list[:min(len(list), maxValues)] {
		switch v := v.(type) {
		case string:
			out = append(out, v)
		case bool:
			out = append(out, fmt.Sprint(v))
		case json.Number:
			out = append(out, v.String())
		}
	}
	return out
}

// emailVerified reports whether the provider says that it verified the claim email. It also accepts the text
// "true", which some providers send.
func (c claims) emailVerified() bool {
	v := c["email_verified"]
	return v == true || v == "true"
}
