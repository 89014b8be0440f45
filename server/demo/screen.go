package demo

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

const (
	// codeStep is how long a TOTP code lasts (RFC 6238 section 5.2).
	codeStep = 30 * time.Second
	// temporaryPrefix begins the name of a temporary data folder.
	temporaryPrefix = "threshold-demo-"
)

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
	}{Proxy: c.public, CAFile: c.caFile(), Node: nodeName, Login: c.state.Account}
	for _, u := range c.state.Users {
		facts.Users = append(facts.Users, user{u.Email, u.Password, u.TOTPSecret, u.Roles})
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
	tsh, login := tshPath(), c.state.Account+"@"+nodeName
	alice, bob := c.state.Users[0], c.state.Users[1]
	fmt.Fprintf(out, "Ready: cluster %s on https://%s\n\n", clusterName, c.public)
	fmt.Fprintf(out, "In another terminal, in this folder:\n\n")
	fmt.Fprintf(out, "  %s login --proxy %s --ca-file %s\n", tsh, c.public, c.caFile())
	fmt.Fprintf(out, "  %s ls\n", tsh)
	fmt.Fprintf(out, "  %s ssh %s\n", tsh, login)
	fmt.Fprintf(out, "  %s scp README.md %s:/tmp/\n\n", tsh, login)
	fmt.Fprintf(out, "The login opens your browser. Without a browser, open the address that it prints.\n\n")
	fmt.Fprintf(out, "  user                 password      may\n")
	fmt.Fprintf(
		out,
		"  %-20s %s  log in to %s as %s, and administer\n",
		alice.Email,
		alice.Password,
		nodeName,
		c.state.Account,
	)
	fmt.Fprintf(out, "  %-20s %s  list nodes only\n\n", bob.Email, bob.Password)
	fmt.Fprintf(out, "For scripts: %s\n", filepath.Join(c.dir, "demo.json"))
	fmt.Fprintf(out, "Log: %s\n", filepath.Join(c.dir, "demo.log"))
	fmt.Fprintf(out, "Ctrl-C ends the demo%s.\n\n", c.afterTheEnd())
	fmt.Fprintf(out, "Six-digit codes, instead of an authenticator app:\n")
}

// tshPath is tsh beside this program, relative to the current folder where it lies below.
func tshPath() string {
	program, err := os.Executable()
	if err != nil {
		return "bin/tsh"
	}
	folder, err := os.Getwd()
	if err != nil {
		return "bin/tsh"
	}
	path, err := filepath.Rel(folder, filepath.Join(filepath.Dir(program), "tsh"))
	if err != nil || strings.HasPrefix(path, "..") {
		return "bin/tsh"
	}
	return path
}

// afterTheEnd says what becomes of the data.
func (c *cluster) afterTheEnd() string {
	if strings.HasPrefix(filepath.Base(c.dir), temporaryPrefix) {
		return " and removes its data"
	}
	return "; its data stays in " + c.dir
}

// printCodes prints the current code of each user until ctx ends: on a terminal in one line that counts down,
// else a line for each step.
func printCodes(ctx context.Context, out io.Writer, users []account) error {
	f, ok := out.(*os.File)
	live := ok && term.IsTerminal(int(f.Fd()))
	every := codeStep
	if live {
		every = time.Second
	}
	for {
		now := time.Now()
		line, err := codeLine(users, now)
		if err != nil {
			return err
		}
		if live {
			left := int(codeStep.Seconds()) - now.Second()%int(codeStep.Seconds())
			fmt.Fprintf(out, "\r  %s   (%2d s left)\x1b[K", line, left)
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

func codeLine(users []account, now time.Time) (string, error) {
	var parts []string
	for _, u := range users {
		code, err := totp.GenerateCode(u.TOTPSecret, now)
		if err != nil {
			return "", fmt.Errorf("code of %s: %w", u.Email, err)
		}
		name, _, _ := strings.Cut(u.Email, "@")
		parts = append(parts, name+" "+code)
	}
	return strings.Join(parts, "   "), nil
}
