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

// present writes demo.json, which has for scripts what the screen shows, and prints the commands to type
// next.
func (c *cluster) present(out io.Writer) error {
	b, err := json.MarshalIndent(c.facts(), "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(c.dir, factsFile), append(b, '\n')); err != nil {
		return err
	}
	c.printWelcome(out)
	return nil
}

// printWelcome prints the commands to type next, the users with their passwords, and where the files are.
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
	fmt.Fprintf(out, "  %-20s %s  log in to %s as %s, and administer\n",
		alice.Email, alice.Password, nodeName, c.state.Account)
	fmt.Fprintf(out, "  %-20s %s  list nodes only\n\n", bob.Email, bob.Password)
	fmt.Fprintf(out, "For scripts: %s\n", filepath.Join(c.dir, factsFile))
	fmt.Fprintf(out, "Log: %s\n", filepath.Join(c.dir, "demo.log"))
	fmt.Fprintf(out, "Ctrl-C ends the demo%s.\n\n", c.afterTheEnd())
	fmt.Fprintf(out, "Six-digit codes, instead of an authenticator app:\n")
}

// tshPath returns the path by which the user starts tsh, which is in the same folder as this program:
// relative to the current folder. If that folder is elsewhere, or the path cannot be found out, it returns
// bin/tsh.
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

// afterTheEnd returns the end of a sentence: what happens to the data when the demo ends.
func (c *cluster) afterTheEnd() string {
	if strings.HasPrefix(filepath.Base(c.dir), temporaryPrefix) {
		return " and removes its data"
	}
	return "; its data stays in " + c.dir
}

// printCodes prints the current code of each user until ctx ends. On a terminal it overwrites one line each
// second, which also shows how long the codes are valid. Elsewhere it prints a line for each time step.
func printCodes(ctx context.Context, out io.Writer, users []account) error {
	file, isFile := out.(*os.File)
	onTerminal := isFile && term.IsTerminal(int(file.Fd()))
	every := codeStep
	if onTerminal {
		every = time.Second
	}
	for {
		now := time.Now()
		line, err := codeLine(users, now)
		if err != nil {
			return err
		}
		if onTerminal {
			left := int(codeStep.Seconds()) - now.Second()%int(codeStep.Seconds())
			const clearToEnd = "\x1b[K" // clears the rest of a longer line from before
			fmt.Fprintf(out, "\r  %s   (%2d s left)"+clearToEnd, line, left)
		} else {
			fmt.Fprintf(out, "  %s  %s\n", now.Format(time.TimeOnly), line)
		}
		select {
		case <-ctx.Done():
			if onTerminal {
				fmt.Fprintln(out)
			}
			return nil
		case <-time.After(time.Until(now.Truncate(every).Add(every))):
		}
	}
}

// codeLine returns the code of each user at the time now, in one line.
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
