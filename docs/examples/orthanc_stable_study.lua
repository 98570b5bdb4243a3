-- Orthanc calls OnStableStudy when a study has had no new image for a while (StableAge, a minute unless you say
-- otherwise). This segments the study and stores the result back into it. In Orthanc's configuration:
--
--     "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
--     "LuaScripts": ["/etc/orthanc/orthanc_stable_study.lua"]
--
-- What it needs stands in the environment of Orthanc: LOWRES_SEG_BUNDLE, the bundle; LOWRES_SEG_FOLDER, a folder for
-- results and the log; LOWRES_SEG_SERVICE, the address of DICOMweb if it is not the one below; LOWRES_SEG_OPTIONS, further
-- words of the command, such as --series 'T1 MPRAGE'; and the user of the command, if Orthanc asks for one:
-- LOWRES_SEG_DICOMWEB_USER and LOWRES_SEG_DICOMWEB_PASSWORD.

local function quoted(word)
  return "'" .. string.gsub(word, "'", "'\\''") .. "'"
end

-- A result makes the study change, and Orthanc calls again when that is stable too.
local function is_done(study)
  for _, series in ipairs(ParseJson(RestApiGet('/studies/' .. study .. '/series'))) do
    local tags = series['MainDicomTags']
    if tags['Modality'] == 'SEG' and tags['Manufacturer'] == 'lowres-seg' then
      return true
    end
  end
  return false
end

function OnStableStudy(study, tags, metadata)
  local uid = tags['StudyInstanceUID']
  if not string.match(uid, '^[0-9.]+$') or is_done(study) then
    return
  end
  local folder = os.getenv('LOWRES_SEG_FOLDER')
  local service = os.getenv('LOWRES_SEG_SERVICE') or 'http://localhost:8042/dicom-web'
  local command = table.concat({
    'lowres-seg predict', quoted(os.getenv('LOWRES_SEG_BUNDLE')), quoted(service .. '/studies/' .. uid),
    '-o', quoted(folder .. '/' .. uid .. '.dcm'), '--store --force --quiet', os.getenv('LOWRES_SEG_OPTIONS') or '',
  }, ' ')
  -- Behind Orthanc's back, which waits for a script and would not answer the command; and one study after the other.
  local log = quoted(folder .. '/log')
  os.execute('flock ' .. quoted(folder .. '/lock') .. ' ' .. command .. ' >> ' .. log .. ' 2>&1 &')
end
