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
}

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

// mapClaims turns verified claims into a user. It refuses what cannot be shown, logged or certified, because
// the error can still say here which claim is wrong.
func (p *provider) mapClaims(all claims) (VerifiedUser, error) {
	v := VerifiedUser{connector: p.name}
	var err error
	if v.subject, err = p.textClaim(all, "sub"); err != nil {
		return VerifiedUser{}, err
	}
	if v.name, err = p.displayName(all); err != nil {
		return VerifiedUser{}, err
	}
	for _, r := range p.spec.Roles {
		matches := func(value string) bool { return access.Glob(r.Value, value) }
		if slices.ContainsFunc(all.values(r.Claim), matches) {
			v.roles = append(v.roles, r.Roles...)
		}
	}
	slices.Sort(v.roles)
	v.roles = slices.Compact(v.roles)
	if v.traits, err = p.immutableTraits(all); err != nil {
		return VerifiedUser{}, err
	}
	return v, nil
}

// textClaim is a claim that must be text which can be shown and certified.
func (p *provider) textClaim(all claims, claim string) (string, error) {
	s, _ := all.find(claim).(string)
	if err := identity.CheckText(claim, s); err != nil {
		return "", p.unusableClaimFault(err, claim)
	}
	return s, nil
}

func (p *provider) unusableClaimFault(err error, claim string) error {
	return fault.Wrap(err, fault.Invalid, opFinish,
		fmt.Sprintf("the identity provider %s sent no usable claim %.120q "+
			"(it is missing, too long, or has invisible characters)", p.display(), claim),
		"ask an administrator to correct the account at the provider, or connector "+p.name)
}

// displayName is the name of the user. If it is an e-mail address, the provider must have verified it.
func (p *provider) displayName(all claims) (string, error) {
	claim := p.spec.nameClaim()
	name, err := p.textClaim(all, claim)
	if err == nil && claim == emailClaim && !all.emailVerified() {
		return "", fault.New(fault.Denied, opFinish,
			"the identity provider "+p.display()+" has not verified the e-mail address "+name,
			"confirm the address with the provider, then start again: tsh login")
	}
	return name, err
}

// immutableTraits are the immutable claims. A claim that is missing or empty gives no trait. One that cannot be
// certified ends the login, because a role may deny something by it.
func (p *provider) immutableTraits(all claims) (identity.Traits, error) {
	out := identity.Traits{}
	for _, t := range p.spec.Traits {
		if !t.Immutable {
			continue
		}
		for _, s := range all.values(t.Claim) {
			if s == "" {
				continue
			}
			if err := identity.CheckText(t.Trait, s); err != nil {
				return nil, p.unusableClaimFault(err, t.Claim)
			}
			out[t.Trait] = append(out[t.Trait], s)
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// find returns the claim of that name, or else the one to which the dots in the name lead.
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

// values returns the values of a claim as text: each value of a list, and none of an object. An e-mail
// address that is not verified has no value.
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

// emailVerified also accepts the text "true", which some providers send.
func (c claims) emailVerified() bool {
	v := c["email_verified"]
	return v == true || v == "true"
}
