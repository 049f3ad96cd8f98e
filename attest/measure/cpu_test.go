// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"testing"
)

func TestCPUSignature(t *testing.T) {
	// From AMD's revision guides for the family and model.
	for model, want := range map[string]uint32{
		"EPYC-v4": 0x00800f12, "EPYC-Rome": 0x00830f10, "EPYC-Milan": 0x00a00f11, "EPYC-Genoa": 0x00a10f10,
		"EPYC-Turin": 0x00b00f00,
	} {
		if got, err := CPUSignature(model); err != nil || got != want {
			t.Errorf("%s: %#08x, %v, want %#08x", model, got, err, want)
		}
	}
}

// The table agrees with QEMU itself, for the models that the QEMU of this machine knows.
func TestCPUModelsAgreeWithQEMU(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	cmd := exec.Command(qemu, "-machine", "q35,accel=tcg", "-nodefaults", "-no-user-config", "-display", "none",
		"-S", "-qmp", "stdio")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	answers := bufio.NewScanner(out)
	answers.Buffer(nil, 1<<20)
	ask := func(request string) json.RawMessage { return askQMP(t, in, answers, request) }
	ask(`{"execute":"qmp_capabilities"}`)

	compared := 0
	for model, id := range models() {
		var answer struct {
			Model struct {
				Props struct{ Family, Model, Stepping uint32 }
			}
		}
		const request = `{"execute":"query-cpu-model-expansion","arguments":{"type":"full","model":{"name":%q}}}`
		raw := ask(fmt.Sprintf(request, model))
		if raw == nil {
			continue // a model of another version of QEMU
		}
		if err := json.Unmarshal(raw, &answer); err != nil {
			t.Fatal(err)
		}
		p := answer.Model.Props
		if got := (cpuid{p.Family, p.Model, p.Stepping}); got != id {
			t.Errorf("%s is %v, QEMU says %v", model, id, got)
		}
		compared++
	}
	if compared < 10 {
		t.Errorf("QEMU knows only %d of %d models", compared, len(models()))
	}
}

// askQMP returns what a request returns, or nil for an error.
func askQMP(t *testing.T, in io.Writer, answers *bufio.Scanner, request string) json.RawMessage {
	t.Helper()
	if _, err := io.WriteString(in, request+"\n"); err != nil {
		t.Fatal(err)
	}
	for answers.Scan() {
		var answer struct {
			Return json.RawMessage
			Error  json.RawMessage
		}
		if err := json.Unmarshal(answers.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		if answer.Return != nil || answer.Error != nil {
			return answer.Return
		}
	}
	t.Fatalf("QEMU ended: %v", answers.Err())
	return nil
}
