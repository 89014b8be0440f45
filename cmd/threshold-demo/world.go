package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/formbrowser"
)

const clientID = "threshold"

// world is what the demo remembers between two runs with --data.
type world struct {
	file         string
	Provider     string   `json:"provider"` // where the provider listens: its address is its name, so it must stay
	ClientSecret string   `json:"client_secret"`
	Account      string   `json:"account"` // the current account
	People       []person `json:"people"`
}

// person is one of the demo's two people.
type person struct {
	Email      string   `json:"email"`
	Password   string   `json:"password"`
	TOTPSecret string   `json:"totp_secret"`
	Roles      []string `json:"roles"`
	Enrolled   bool     `json:"enrolled"`
}

func loadWorld(dir string) (*world, error) {
	w := &world{file: filepath.Join(dir, "world.json")}
	b, err := os.ReadFile(w.file)
	if errors.Is(err, fs.ErrNotExist) {
		return newWorld(w)
	}
	if err != nil {
		return nil, fmt.Errorf("read the demo's data: %w", err)
	}
	if err := json.Unmarshal(b, w); err != nil {
		return nil, fmt.Errorf("read the demo's data: %w", err)
	}
	return w, nil
}

func newWorld(w *world) (*world, error) {
	me, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("find the current account: %w", err)
	}
	w.Provider, w.ClientSecret, w.Account = "127.0.0.1:0", rand.Text(), me.Username
	w.People = []person{
		{Email: "alice@example.com", Password: password(), Roles: []string{"admin", "operator"}},
		{Email: "bob@example.com", Password: password(), Roles: []string{"viewer"}},
	}
	return w, nil
}

// password is short enough to type: 12 letters and digits, 60 bits.
func password() string { return strings.ToLower(rand.Text()[:12]) }

func (w *world) save() error {
	b, err := json.MarshalIndent(w, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(w.file, append(b, '\n'))
}

func (w *world) issuer() string { return "http://" + w.Provider }

// users are the people as the provider knows them.
func (w *world) users() []oidctest.User {
	var out []oidctest.User
	for _, p := range w.People {
		name, _, _ := strings.Cut(p.Email, "@")
		out = append(
			out,
			oidctest.User{
				Email:    p.Email,
				Password: p.Password,
				Subject:  "demo-" + name,
				Claims:   map[string]any{"groups": p.Roles},
			},
		)
	}
	return out
}

// bootstrap is the file that the cluster is born from.
func (w *world) bootstrap() []byte {
	return fmt.Appendf(nil, `kind: cluster
version: v1
metadata: {name: %s}
spec:
  seal: file://%s
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
`, clusterName, filepath.Join(filepath.Dir(w.file), "seal.key"), w.issuer(), clientID, w.ClientSecret, w.Account)
}

// enrolPeople takes each person through a first login in the browser's way, so that the codes of the demo's
// terminal work.
func (c *cluster) enrolPeople(ctx context.Context) error {
	for i := range c.world.People {
		if p := &c.world.People[i]; !p.Enrolled {
			if err := c.enrol(ctx, p); err != nil {
				return fmt.Errorf("enrol %s: %w", p.Email, err)
			}
		}
	}
	return nil
}

// nowhere is a loopback address where no tsh waits: the enrolment stops before it.
const nowhere = "http://127.0.0.1:1/callback"

func (c *cluster) enrol(ctx context.Context, p *person) error {
	// The challenge commits to keys that do not exist: this login can never be redeemed.
	address := "https://" + c.proxy + "/login?challenge=" + strings.Repeat(
		"A",
		43,
	) + "&state=enrolment-of-demo&callback=" + nowhere
	page, err := formbrowser.New(c.roots(), nowhere).Open(ctx, address)
	if err != nil {
		return err
	}
	if page, err = page.Submit(ctx, map[string]string{"login": p.Email, "password": p.Password}); err != nil {
		return err
	}
	if secret := page.ByID("secret"); secret != "" {
		// Kept before the code is sent: whatever happens then, the secret is not lost.
		p.TOTPSecret = strings.ReplaceAll(secret, " ", "")
		if err := c.world.save(); err != nil {
			return err
		}
		if err := proveEnrolment(ctx, page, p); err != nil {
			return err
		}
	} else if !page.HasField("code") {
		return fmt.Errorf("unexpected page: %s", page.Text())
	}
	p.Enrolled = true
	return c.world.save()
}

// proveEnrolment shows the code of the step before, so that the present one is still unused when somebody
// logs in at once.
func proveEnrolment(ctx context.Context, page *formbrowser.Page, p *person) error {
	for range 2 { // the step may end between the two: then the code was two steps old, and the next is not
		code, err := totp.GenerateCode(p.TOTPSecret, time.Now().Add(-codeStep))
		if err != nil {
			return err
		}
		if page, err = page.Submit(ctx, map[string]string{"code": code}); err != nil ||
			!page.HasField("code") {
			return err
		}
	}
	return fmt.Errorf("the code was refused: %s", page.Text())
}
