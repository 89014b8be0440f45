package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pquerna/otp/totp"
	"golang.org/x/term"

	"github.com/threshold-access/threshold/internal/durable"
)

// codeStep is how long a TOTP code lasts (RFC 6238 section 5.2).
const codeStep = 30 * time.Second

// present writes demo.json and prints the commands to type next.
func (c *cluster) present(out io.Writer) error {
	type user struct {
		Email      string   `json:"email"`
		Password   string   `json:"password"`
		TOTPSecret string   `json:"totp_secret"`
		Roles      []string `json:"roles"`
	}
	facts := struct {
		Proxy  string `json:"proxy"`
		CAFile string `json:"ca_file"`
		Users  []user `json:"users"`
		Node   string `json:"node"`
		Login  string `json:"login"`
	}{Proxy: c.proxy, CAFile: c.caFile(), Node: nodeName, Login: c.world.Account}
	for _, p := range c.world.People {
		facts.Users = append(facts.Users, user{p.Email, p.Password, p.TOTPSecret, p.Roles})
	}
	b, err := json.MarshalIndent(facts, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(c.dir, "demo.json"), append(b, '\n')); err != nil {
		return err
	}
	c.printWelcome(out)
	return nil
}

func (c *cluster) printWelcome(out io.Writer) {
	tsh := "bin/tsh"
	if me, err := os.Executable(); err == nil {
		if wd, err := os.Getwd(); err == nil {
			if rel, err := filepath.Rel(wd, filepath.Join(filepath.Dir(me), "tsh")); err == nil &&
				!strings.HasPrefix(rel, "..") {
				tsh = rel
			}
		}
	}
	alice, bob := c.world.People[0], c.world.People[1]
	fmt.Fprintf(out, `Ready: cluster %s on https://%s

In another terminal, in this folder:

  %s login --proxy %s --ca-file %s
  %s ls
  %s ssh %s@%s
  %s scp README.md %s@%s:/tmp/

The login opens your browser. No browser here? Open the address it prints.

  who                  password      may
  %-20s %s  log in to %s as %s, and administer
  %-20s %s  list nodes only

The same for scripts: %s
Log: %s
Ctrl-C ends the demo%s.

Six-digit codes, in place of an authenticator app:
`, clusterName, c.proxy, tsh, c.proxy, c.caFile(), tsh, tsh, c.world.Account, nodeName, tsh, c.world.Account, nodeName,
		alice.Email, alice.Password, nodeName, c.world.Account, bob.Email, bob.Password,
		filepath.Join(c.dir, "demo.json"), filepath.Join(c.dir, "demo.log"), c.goodbye())
}

func (c *cluster) goodbye() string {
	if strings.HasPrefix(filepath.Base(c.dir), "threshold-demo-") {
		return " and removes its data"
	}
	return "; its data stays in " + c.dir
}

// showCodes prints everybody's current code until ctx ends: on a terminal in one line that counts down, else
// a line for each step.
func showCodes(ctx context.Context, out io.Writer, people []person) error {
	f, ok := out.(*os.File)
	live := ok && term.IsTerminal(int(f.Fd()))
	every := codeStep
	if live {
		every = time.Second
	}
	for {
		now := time.Now()
		line, err := codeLine(people, now)
		if err != nil {
			return err
		}
		if live {
			fmt.Fprintf(
				out,
				"\r  %s   (%2d s left)\x1b[K",
				line,
				int(codeStep.Seconds())-now.Second()%int(codeStep.Seconds()),
			)
		} else {
			fmt.Fprintf(out, "  %s  %s\n", now.Format(time.TimeOnly), line)
		}
		select {
		case <-ctx.Done():
			if live {
				fmt.Fprintln(out)
			}
			return nil
		case <-time.After(time.Until(now.Truncate(every).Add(every))):
		}
	}
}

func codeLine(people []person, now time.Time) (string, error) {
	var parts []string
	for _, p := range people {
		code, err := totp.GenerateCode(p.TOTPSecret, now)
		if err != nil {
			return "", fmt.Errorf("code of %s: %w", p.Email, err)
		}
		name, _, _ := strings.Cut(p.Email, "@")
		parts = append(parts, name+" "+code)
	}
	return strings.Join(parts, "   "), nil
}
