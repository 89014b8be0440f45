package tsh

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
)

// versionCmd is "tsh version". It needs no login.
func (a *app) versionCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Show the version of tsh", Args: noArgs("leave %s out")}
	format := formatFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		v := struct {
			Version  string `json:"version"`
			Go       string `json:"go"`
			Platform string `json:"platform"`
		}{a.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
		return a.write(*format, v, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, a.versionLine())
			return err
		})
	}
	return cmd
}

func (a *app) versionLine() string {
	return fmt.Sprintf("tsh %s (%s, %s/%s)", a.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
