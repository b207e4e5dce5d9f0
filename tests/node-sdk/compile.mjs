// Compiles a Solidity file and prints each contract's creation code: {"Name": "0x…"}.

import { readFileSync } from 'node:fs'
import solc from 'solc'

const [file] = process.argv.slice(2)
const input = {
  language: 'Solidity',
  sources: { source: { content: readFileSync(file, 'utf8') } },
  settings: { optimizer: { enabled: true }, outputSelection: { '*': { '*': ['evm.bytecode.object'] } } },
}
const output = JSON.parse(solc.compile(JSON.stringify(input)))
const errors = (output.errors ?? []).filter((error) => error.severity === 'error')
if (errors.length > 0) {
  console.error(errors.map((error) => error.formattedMessage).join('\n'))
  process.exit(1)
}
const contracts = Object.entries(output.contracts.source)
console.log(JSON.stringify(Object.fromEntries(contracts.map(([name, it]) => [name, `0x${it.evm.bytecode.object}`]))))
