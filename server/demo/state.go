package demo

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/wire"
)

const clientID = "threshold"

// stateVersion is the newest version of state.json that this code reads, and the one that it writes.
const stateVersion = 1

// state is what the demo keeps between two runs over the same folder.
type state struct {
	path string
	V    int `json:"v"` // stateVersion
	// Provider is the provider's host:port. It is part of the issuer's name, so it stays the same.
	Provider     string    `json:"provider"`
	ClientSecret string    `json:"client_secret"`
	Account      string    `json:"account"` // the account that runs the demo
	Users        []account `json:"users"`
}

// account is one of the demo's two users as the provider and the authenticator app know them.
type account struct {
	Email      string   `json:"email"`
	Password   string   `json:"password"`
	TOTPSecret string   `json:"totp_secret"`
	Roles      []string `json:"roles"`
	Enrolled   bool     `json:"enrolled"` // the second factor is enrolled with the cluster
}

// loadState reads the state, or makes a new one with new passwords.
func loadState(dir string) (*state, error) {
	s := &state{path: filepath.Join(dir, "state.json")}
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, s.generate()
	}
	if err == nil {
		err = json.Unmarshal(b, s)
	}
	if err == nil {
		err = wire.Check("the demo's state", s.V, stateVersion, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("read the demo's state: %w", err)
	}
	return s, nil
}

// generate fills a new state: two users with new passwords, and a port of the provider that the system will
// choose. It does not save the state.
func (s *state) generate() error {
	me, err := user.Current()
	if err != nil {
		return fmt.Errorf("find the current account: %w", err)
	}
	s.V = stateVersion
	s.Provider, s.ClientSecret, s.Account = "127.0.0.1:0", rand.Text(), me.Username
	s.Users = []account{
		{Email: "alice@example.com", Password: newPassword(), Roles: []string{"admin", "operator"}},
		{Email: "bob@example.com", Password: newPassword(), Roles: []string{"viewer"}},
	}
	return nil
}

// newPassword returns a random password that is short enough to type: 12 letters and digits, 60 bits.
func newPassword() string { return strings.ToLower(rand.Text()[:12]) }

func (s *state) save() error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(s.path, append(b, '\n'))
}

func (s *state) issuer() string { return "http://" + s.Provider }

// providerUsers are the users as the provider knows them.
func (s *state) providerUsers() []oidctest.User {
	var out []oidctest.User
	for _, u := range s.Users {
		name, _, _ := strings.Cut(u.Email, "@")
		out = append(out, oidctest.User{
			Email:    u.Email,
			Password: u.Password,
			Subject:  "demo-" + name,
			Claims:   map[string]any{"groups": u.Roles},
		})
	}
	return out
}

// bootstrap returns the bootstrap file of the demo's cluster, in YAML.
func (s *state) bootstrap() []byte {
	return fmt.Appendf(nil, `kind: cluster
version: v1
metadata: {name: %s}
spec:
  seal: file://%s
  root_key: store # nobody relies on a demo: see docs/cli.md
  connector:
    name: demo
    type: oidc
    display: The demo's own provider
    issuer: %s
    client_id: %s
    client_secret: %s
    scopes: [openid, email, groups]
    roles:
      - {claim: groups, value: operator, roles: [operator]}
      - {claim: groups, value: viewer, roles: [viewer]}
  admin: {claim: groups, value: admin}
---
kind: role
version: v1
metadata: {name: operator}
spec:
  allow:
    - nodes: {"*": "*"}
      logins: [%s]
      actions: [shell, exec, sftp, forward-local]
  options: {idle_timeout: 600s}
---
kind: role
version: v1
metadata: {name: viewer}
spec:
  allow:
    - nodes: {"*": "*"}
      actions: [list]
`,
		clusterName,
		filepath.Join(filepath.Dir(s.path), "seal.key"),
		s.issuer(),
		clientID,
		s.ClientSecret,
		s.Account,
	)
}
