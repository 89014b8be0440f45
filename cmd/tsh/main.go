// Command tsh is Threshold's client: tsh login, tsh ssh, tsh scp. Package tsh says what it does.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/threshold-access/threshold/tsh"
)

// version is set by the linker: see the Makefile.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := tsh.Main(ctx, tsh.Env{Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: version})
	stop()
	os.Exit(code)
}
