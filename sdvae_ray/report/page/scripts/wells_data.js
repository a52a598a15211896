// The wells: columns decoded from base64, and the words of one well.
const readWells = () => {
  const holder = document.getElementById("wells-data");
  if (!holder) return null;
  const data = JSON.parse(holder.textContent);
  const bytes = (text) => {
    const letters = atob(text), out = new Uint8Array(letters.length);
    for (let at = 0; at < out.length; at++) out[at] = letters.charCodeAt(at);
    return out;
  };
  const integers = { u8: (text) => bytes(text), u16: (text) => new Uint16Array(bytes(text).buffer), u32: (text) => new Uint32Array(bytes(text).buffer), i32: (text) => new Int32Array(bytes(text).buffer) };
  for (const [name, kind] of [["plate", "u16"], ["row", "u8"], ["column", "u8"], ["compound", "u32"], ["role", "u8"], ["group", "u16"], ["batch", "u16"]]) data[name] = integers[kind](data[name]);
  for (const measure of data.measures) measure.codes = integers.u8(measure.codes);
  for (const map of data.maps) map.places = integers.u16(map.places);
  if (data.neighbours) data.neighbours = integers.i32(data.neighbours);
  const letters = (row) => (row < 26 ? "" : String.fromCharCode(64 + Math.floor(row / 26))) + String.fromCharCode(65 + (row % 26));
  data.wellOf = (well) => data.wells ? data.wells[well] : letters(data.row[well]) + String(data.column[well] + 1).padStart(2, "0");
  data.nameOf = (well) => `${data.plates[data.plate[well]]}/${data.wellOf(well)}`;
  data.compoundOf = (well) => data.names[data.compound[well]] || data.roles[data.role[well]];
  data.valueOf = (measure, well) => measure.codes[well] === 255 ? "–" : (measure.low + (measure.codes[well] / 254) * (measure.high - measure.low)).toPrecision(3);
  data.isOnPlate = (well) => data.row[well] !== 255;
  return data;
};
