package tsh

import (
	"context"
	"os/exec"
	"runtime"
	"time"
)

// browserTime bounds how long the launcher of the browser may run.
const browserTime = 5 * time.Second

// openBrowser opens the address in the desktop's browser. The launchers return once they have passed the
// address on. Without a desktop some wait for a text browser to end, which browserTime bounds.
func openBrowser(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, browserTime)
	defer cancel()
	name := "xdg-open"
	if runtime.GOOS == "darwin" {
		name = "open"
	}
	return exec.CommandContext(ctx, name, url).Run()
}
