package oidc

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/identity"
)

// SpecType is the only type of connector.
const SpecType = "oidc"

// Spec is the document of a connector: a provider, and how its claims map to roles and traits.
type Spec struct {
	// Type is SpecType.
	Type string `json:"type" yaml:"type" config:"required"`
	// Display is the name on the login page. Empty means the connector's name.
	Display string `json:"display,omitempty" yaml:"display,omitempty"`
	// Issuer is the provider's issuer URL. It must be https; http is allowed on loopback only.
	Issuer string `json:"issuer" yaml:"issuer" config:"required"`
	// ClientID and ClientSecret are those that the provider registered for this cluster. A public client has
	// no secret.
	ClientID     string `json:"client_id" yaml:"client_id" config:"required"`
	ClientSecret string `json:"client_secret,omitempty" yaml:"client_secret,omitempty"`
	// Scopes are requested from the provider. Empty means openid, profile and email.
	Scopes config.Strings `json:"scopes,omitempty" yaml:"scopes,omitempty"`
	// NameClaim is the claim by which users are named. Empty means email, which must then be verified. It is
	// never a key.
	NameClaim string      `json:"name_claim,omitempty" yaml:"name_claim,omitempty"`
	Roles     []RoleRule  `json:"roles,omitempty" yaml:"roles,omitempty"`
	Traits    []TraitRule `json:"traits,omitempty" yaml:"traits,omitempty"`
}

// RoleRule gives roles to every user whose claim has a matching value. The claim may hold one value or a
// list. A name with dots, such as realm_access.roles, names a field inside objects, unless the token has a
// claim of exactly that name. The claim email counts only if the provider has verified it.
type RoleRule struct {
	Claim string         `json:"claim" yaml:"claim" config:"required"`
	Value string         `json:"value" yaml:"value" config:"required"` // "*" and "?" are wildcards
	Roles config.Strings `json:"roles" yaml:"roles" config:"required"`
}

// TraitRule makes a claim a trait. Immutable says that users cannot change the claim themselves, and only
// such traits are used: a role may turn a trait into a login, so a claim such as a nickname would let its
// owner choose an account.
type TraitRule struct {
	Trait     string `json:"trait"     yaml:"trait"     config:"required"`
	Claim     string `json:"claim"     yaml:"claim"     config:"required"`
	Immutable bool   `json:"immutable" yaml:"immutable" config:"required"`
}

const (
	defaultNameClaim = "email"
	emailClaim       = "email"
	maxRules         = 100 // of one kind
	maxURL           = 512 // bytes
)

var defaultScopes = []string{"openid", "profile", "email"}

func (s Spec) scopes() []string {
	if len(s.Scopes) == 0 {
		return defaultScopes
	}
	return s.Scopes
}

func (s Spec) nameClaim() string {
	if s.NameClaim == "" {
		return defaultNameClaim
	}
	return s.NameClaim
}

// badText is reported for text that identity.CheckText refuses.
const badText = "is empty, longer than 512 bytes, or has control or invisible characters"

// Check implements config.Checker. It reports what cannot work, and what an administrator may misunderstand:
// text that looks like other text, and rules without effect.
func (s Spec) Check(report func(path, format string, args ...any)) {
	if s.Type != SpecType {
		report("type", "unknown type %.120q (known: %s)", s.Type, SpecType)
	}
	if err := checkIssuer(s.Issuer); err != nil {
		report("issuer", "%v", err)
	}
	for _, field := range []struct {
		path, text string
		required   bool
	}{
		{"client_id", s.ClientID, true},
		{"client_secret", s.ClientSecret, false},
		{"display", s.Display, false},
		{"name_claim", s.NameClaim, false},
	} {
		if field.text == "" && !field.required {
			continue
		}
		if identity.CheckText(field.path, field.text) != nil {
			report(field.path, badText)
		}
	}
	if len(s.Scopes) > 0 && !slices.Contains(s.Scopes, "openid") {
		report("scopes", "needs openid, or the provider sends no identity")
	}
	for i, scope := range s.Scopes {
		// The scopes are sent as one string with spaces between them (RFC 6749 section 3.3).
		if identity.CheckText("scope", scope) != nil || strings.ContainsAny(scope, " \"\\") {
			report(fmt.Sprintf("scopes.%d", i), "%.120q is not a valid scope", scope)
		}
	}
	s.checkRules(report)
}

// checkRules reports what is wrong with the rules for roles and traits.
func (s Spec) checkRules(report func(path, format string, args ...any)) {
	if len(s.Roles) > maxRules || len(s.Traits) > maxRules {
		report("", "has more than %d rules of one kind", maxRules)
	}
	for i, rule := range s.Roles {
		path := fmt.Sprintf("roles.%d", i)
		checkClaim(path, rule.Claim, report)
		if identity.CheckText("value", rule.Value) != nil {
			report(path+".value", badText)
		}
		if len(rule.Roles) == 0 {
			report(path+".roles", "names no role, so the rule does nothing")
		}
		for _, role := range rule.Roles {
			if err := identity.CheckWord("role", role); err != nil {
				report(path+".roles", "%v", err)
			}
		}
	}
	defined := map[string]bool{}
	for i, rule := range s.Traits {
		path := fmt.Sprintf("traits.%d", i)
		checkClaim(path, rule.Claim, report)
		if err := identity.CheckWord("trait", rule.Trait); err != nil {
			report(path+".trait", "%v", err)
		}
		// Two rules for one trait would mix the values of two claims, and it would not be visible from where
		// a login comes.
		if defined[rule.Trait] {
			report(path+".trait", "trait %.120q is defined twice", rule.Trait)
		}
		defined[rule.Trait] = true
	}
}

// checkClaim reports the name of a claim, for the rule at path, if it is not usable text.
func checkClaim(path, claim string, report func(path, format string, args ...any)) {
	if identity.CheckText("claim", claim) != nil {
		report(path+".claim", badText)
	}
}

// checkIssuer refuses what is no issuer of OpenID Connect Discovery 1.0 section 3: a URL without query and
// fragment.
func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil || len(issuer) > maxURL {
		return fmt.Errorf("is not an address such as https://login.example.com")
	}
	if u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return fmt.Errorf("%.120q is not an address such as https://login.example.com", u.Redacted())
	}
	return checkScheme(u)
}

// checkScheme refuses plain http except on loopback: it would send codes and the client secret unencrypted.
func checkScheme(u *url.URL) error {
	if u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()) {
		return nil
	}
	return fmt.Errorf("%.120q must begin with https:// (http:// is for loopback only)", u.String())
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Record returns the spec as auth/state stores it. The client secret is a field of its own, so that the store
// keeps it sealed; ReadRecord is the inverse.
func (s Spec) Record() (state.Connector, error) {
	secret := s.ClientSecret
	s.ClientSecret = ""
	b, err := json.Marshal(s)
	if err != nil {
		return state.Connector{}, fmt.Errorf("encode connector: %w", err)
	}
	return state.Connector{Spec: b, Issuer: s.Issuer, Secret: secret}, nil
}

// ReadRecord returns the spec that Record stored, with its client secret.
func ReadRecord(c state.Connector) (Spec, error) {
	var s Spec
	if err := json.Unmarshal(c.Spec, &s); err != nil {
		return Spec{}, fmt.Errorf("decode connector: %w", err)
	}
	s.ClientSecret = c.Secret
	return s, nil
}
